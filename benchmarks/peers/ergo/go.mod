// The version of Go here also says how TLS agrees on keys: from 1.23 on it would be by a hybrid with ML-KEM or
// Kyber, which costs more, and which none of the other peers has.
module benchmark

go 1.22

require ergo.services/ergo v1.999.320

// The same source, from where it is kept: its versions before 3 used to be called this.
replace ergo.services/ergo => github.com/ergo-services/ergo v1.999.320

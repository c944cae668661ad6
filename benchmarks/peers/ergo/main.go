// Ergo in the benchmarks: a node that is dialed, or a process full of nodes that dial it.
package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ergo.services/ergo"
	"ergo.services/ergo/act"
	"ergo.services/ergo/gen"
	"ergo.services/ergo/net/handshake"
	"ergo.services/ergo/node"
)

const (
	cookie   = "the nodes of one benchmark"
	host     = "127.0.0.1"
	counting = gen.Atom("counting")
	echoing  = gen.Atom("echoing")
	// How long to wait for messages, at most.
	patience = 120 * time.Second
	note     = "a message goes to a registered process; one connection for each link, of which its default is three; " +
		"without its system application, which would report to its makers"
)

// What one order says, and what is answered.
type order struct {
	Do       string  `json:"do"`
	Address  address `json:"address"`
	Count    int     `json:"count"`
	AtOnce   int     `json:"at_once"`
	Rounds   int     `json:"rounds"`
	Size     int     `json:"size"`
	Messages int64   `json:"messages"`
	Seconds  float64 `json:"seconds"`
}

type address struct {
	Name gen.Atom `json:"name"`
	Port uint16   `json:"port"`
}

type answer map[string]any

type method func(order) (answer, error)

// What it cannot do, and why.
type unsupported string

func (why unsupported) Error() string { return string(why) }

func main() {
	hello := func(order) (answer, error) {
		version := ergo.FrameworkVersion.Release + ", " + runtime.Version()
		return answer{"name": "Ergo", "version": version, "tls": true, "note": note, "ways": []string{}}, nil
	}
	client := &client{}
	roles := map[string]map[string]method{
		"server": {"hello": hello, "start": start, "received": received, "wait": wait, "links": links, "idle": idle,
			"broadcast": broadcast},
		"client": {"hello": hello, "link": client.link, "rtt": client.rtt, "send": client.send, "drop": client.drop},
	}
	methods := roles[os.Args[1]]
	lines := make(chan []byte)
	go func() {
		scanner := bufio.NewScanner(os.Stdin)
		for scanner.Scan() {
			lines <- slices.Clone(scanner.Bytes())
		}
		close(lines)
		time.Sleep(time.Second)
		os.Exit(0) // whatever is being done
	}()
	for line := range lines {
		text, err := json.Marshal(obey(methods, line))
		if err != nil {
			panic(err)
		}
		fmt.Println(string(text))
	}
}

func obey(methods map[string]method, line []byte) answer {
	var it order
	if err := json.Unmarshal(line, &it); err != nil {
		return answer{"failed": err.Error()}
	}
	do, known := methods[it.Do]
	if !known {
		return answer{"unsupported": fmt.Sprintf("it has no %q", it.Do)}
	}
	done, err := do(it)
	if cannot, ok := err.(unsupported); ok {
		return answer{"unsupported": string(cannot)}
	}
	if err != nil {
		return answer{"failed": err.Error()}
	}
	return done
}

// Nodes.

func begin(name gen.Atom, network gen.NetworkOptions) (gen.Node, error) {
	network.Cookie = cookie
	network.Registrar = nobody{}
	network.InsecureSkipVerify = true // the cookie is what is proved
	options := gen.NodeOptions{Network: network}
	options.Log.DefaultLogger.Disable = true
	return node.Start(name, options, ergo.FrameworkVersion)
}

// A registrar that knows nobody: the clients are told where the server is.
type nobody struct{}

func (nobody) Register(gen.NodeRegistrar, gen.RegisterRoutes) (gen.StaticRoutes, error) {
	return gen.StaticRoutes{}, nil
}
func (nobody) Resolver() gen.Resolver                              { return nil }
func (nobody) RegisterProxy(gen.Atom) error                        { return gen.ErrUnsupported }
func (nobody) UnregisterProxy(gen.Atom) error                      { return gen.ErrUnsupported }
func (nobody) RegisterApplicationRoute(gen.ApplicationRoute) error { return gen.ErrUnsupported }
func (nobody) UnregisterApplicationRoute(gen.Atom) error           { return gen.ErrUnsupported }
func (nobody) Nodes() ([]gen.Atom, error)                          { return nil, gen.ErrUnsupported }
func (nobody) Config(...string) (map[string]any, error)            { return nil, gen.ErrUnsupported }
func (nobody) ConfigItem(string) (any, error)                      { return nil, gen.ErrUnsupported }
func (nobody) Event() (gen.Event, error)                           { return gen.Event{}, gen.ErrUnsupported }
func (nobody) Info() gen.RegistrarInfo                             { return gen.RegistrarInfo{} }
func (nobody) Terminate()                                          {}
func (nobody) Version() gen.Version                                { return gen.Version{Name: "nobody"} }

// The server.

var (
	server   gen.Node
	messages atomic.Int64
	bytes    atomic.Int64
)

// Counts what it is sent.
type counter struct{ act.Actor }

func (*counter) HandleMessage(_ gen.PID, message any) error {
	if body, ok := message.([]byte); ok {
		bytes.Add(int64(len(body)))
		messages.Add(1)
	}
	return nil
}

// Answers with what it is asked.
type echo struct{ act.Actor }

func (*echo) HandleCall(_ gen.PID, _ gen.Ref, request any) (any, error) { return request, nil }

func start(order) (answer, error) {
	certificate, err := certify()
	if err != nil {
		return nil, err
	}
	free, err := net.Listen("tcp", host+":0")
	if err != nil {
		return nil, err
	}
	port := uint16(free.Addr().(*net.TCPAddr).Port)
	free.Close()
	name := gen.Atom(fmt.Sprintf("server%d@%s", os.Getpid(), host))
	server, err = begin(name, gen.NetworkOptions{
		Handshake: handshake.Create(handshake.Options{PoolSize: 1}),
		Acceptors: []gen.AcceptorOptions{{
			Host: host, Port: port, PortRange: port + 1, CertManager: gen.CreateCertManager(certificate),
		}},
	})
	if err != nil {
		return nil, err
	}
	for name, factory := range map[gen.Atom]gen.ProcessFactory{
		counting: func() gen.ProcessBehavior { return &counter{} },
		echoing:  func() gen.ProcessBehavior { return &echo{} },
	} {
		if _, err := server.SpawnRegister(name, factory, gen.ProcessOptions{}); err != nil {
			return nil, err
		}
	}
	acceptors, err := server.Network().Acceptors()
	if err != nil {
		return nil, err
	}
	_, listening, err := net.SplitHostPort(acceptors[0].Info().Interface)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(listening, 10, 16)
	return answer{"address": address{name, uint16(number)}, "pid": os.Getpid()}, err
}

// A P-256 certificate signed by itself.
func certify() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "benchmark"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func received(order) (answer, error) {
	return answer{"messages": messages.Load(), "bytes": bytes.Load()}, nil
}

func wait(it order) (answer, error) {
	began := time.Now()
	for messages.Load() < it.Messages {
		if time.Since(began) > patience {
			return nil, fmt.Errorf("%d of %d messages have come in %s", messages.Load(), it.Messages, patience)
		}
		time.Sleep(time.Millisecond)
	}
	return answer{"seconds": time.Since(began).Seconds()}, nil
}

func links(order) (answer, error) {
	return answer{"links": len(server.Network().Nodes())}, nil
}

func broadcast(order) (answer, error) {
	return nil, unsupported("a timer writes what is sent, and nothing tells when it has")
}

func idle(it order) (answer, error) {
	before := used()
	time.Sleep(time.Duration(it.Seconds * float64(time.Second)))
	return answer{"cpu": used() - before}, nil
}

// Seconds of CPU that this process has used.
func used() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// The client.

type client struct {
	server gen.Atom
	// Each has one link. What is sent goes over that of the first.
	nodes  []gen.Node
	number atomic.Int64
}

// Does what it is sent, for only a process can call.
type worker struct{ act.Actor }

type job func(*worker)

func (w *worker) HandleMessage(_ gen.PID, message any) error {
	if do, ok := message.(job); ok {
		do(w)
	}
	return nil
}

func (c *client) link(it order) (answer, error) {
	began, before := time.Now(), len(c.nodes)
	c.server = it.Address.Name
	var (
		group   sync.WaitGroup
		guard   sync.Mutex
		failure string
	)
	places := make(chan struct{}, it.AtOnce)
	for range it.Count {
		places <- struct{}{}
		group.Add(1)
		go func() {
			made, err := c.dial(it.Address)
			guard.Lock()
			if err == nil {
				c.nodes = append(c.nodes, made)
			} else {
				failure = err.Error()
			}
			guard.Unlock()
			<-places
			group.Done()
		}()
	}
	group.Wait()
	return answer{"made": len(c.nodes) - before, "seconds": time.Since(began).Seconds(), "why": failure}, nil
}

func (c *client) dial(to address) (gen.Node, error) {
	name := gen.Atom(fmt.Sprintf("client%dx%d@%s", c.number.Add(1), os.Getpid(), host))
	made, err := begin(name, gen.NetworkOptions{Mode: gen.NetworkModeHidden})
	if err != nil {
		return nil, err
	}
	route := gen.NetworkRoute{Route: gen.Route{Host: host, Port: to.Port, TLS: true}}
	if _, err := made.Network().GetNodeWithRoute(to.Name, route); err != nil {
		made.StopForce()
		return nil, err
	}
	return made, nil
}

// Have a process of the first node do something.
func (c *client) work(do func(*worker) error) error {
	if len(c.nodes) == 0 {
		return errors.New("there is no link yet")
	}
	pid, err := c.nodes[0].Spawn(func() gen.ProcessBehavior { return &worker{} }, gen.ProcessOptions{})
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	if err := c.nodes[0].Send(pid, job(func(w *worker) { done <- do(w) })); err != nil {
		return err
	}
	defer c.nodes[0].Kill(pid)
	return <-done
}

func (c *client) rtt(it order) (answer, error) {
	trips := make([]float64, 0, it.Rounds)
	err := c.work(func(w *worker) error {
		to := gen.ProcessID{Name: echoing, Node: c.server}
		for range it.Rounds {
			began := time.Now()
			if _, err := w.Call(to, 1); err != nil {
				return err
			}
			trips = append(trips, time.Since(began).Seconds())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(trips)
	share := func(percent int) float64 { return trips[(len(trips)*percent+99)/100-1] }
	return answer{"p50": share(50), "p99": share(99)}, nil
}

func (c *client) send(it order) (answer, error) {
	body, before, began := make([]byte, it.Size), used(), time.Now()
	err := c.work(func(w *worker) error {
		to := gen.ProcessID{Name: counting, Node: c.server}
		for range it.Count {
			if err := w.Send(to, body); err != nil {
				return err
			}
		}
		return nil
	})
	return answer{"seconds": time.Since(began).Seconds(), "cpu": used() - before}, err
}

func (c *client) drop(order) (answer, error) {
	var group sync.WaitGroup
	for _, one := range c.nodes {
		group.Add(1)
		go func() {
			one.StopForce()
			group.Done()
		}()
	}
	group.Wait()
	c.nodes = nil
	return answer{}, nil
}

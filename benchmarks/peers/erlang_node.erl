%% A node of Erlang/OTP in the benchmarks. It takes a term from each line of its input and answers with a line
%% of JSON; when the input ends, so does the node. It is its own epmd, too: the port of its one peer comes with
%% the order to link.
-module(erlang_node).
-export([main/0]).
-export([start_link/0, register_node/2, register_node/3, address_please/3, port_please/2, port_please/3,
         listen_port_please/2, names/1]).

-define(PATIENCE, 120000).
-define(COUNT, counted).
-define(ECHO, echoing).

main() ->
    register(?COUNT, spawn(fun() -> count(0, 0, none, none) end)),
    register(?ECHO, spawn(fun echo/0)),
    Worker = spawn(fun work/0),
    spawn(fun() -> read(Worker) end).

read(Worker) ->
    case io:read('') of
        {ok, Order} -> Worker ! Order, read(Worker);
        _ -> erlang:halt(0, [{flush, false}])
    end.

work() ->
    try
        io:put_chars([receive Order -> obey(Order) end, $\n])
    catch
        _:Why -> io:put_chars([json([{failed, ["\"", [C || C <- io_lib:format("~0p", [Why]), C =/= $"], "\""]}]), $\n])
    end,
    work().

obey(port) ->
    json([{port, persistent_term:get(own_port)}]);
obey({link, Node, Port}) ->
    persistent_term:put(peer_port, Port),
    {Taken, _} = timed(fun() -> net_kernel:connect_node(Node) orelse error(not_connected) end),
    json([{seconds, Taken}]);
obey({unlink, Node}) ->
    erlang:disconnect_node(Node),
    json([]);
obey(links) ->
    json([{links, length(nodes(connected))}]);
obey(received) ->
    ?COUNT ! {totals, self()},
    receive {totals, Messages, Bytes} -> json([{messages, Messages}, {bytes, Bytes}]) end;
obey({wait, Messages}) ->
    {Taken, _} = timed(fun() ->
        ?COUNT ! {wait, Messages, self()},
        receive reached -> ok after ?PATIENCE -> error(messages_are_missing) end
    end),
    json([{seconds, Taken}]);
obey({send, Node, Size, Count}) ->
    {Taken, ok} = timed(fun() -> alone(fun() -> send({?COUNT, Node}, binary:copy(<<"m">>, Size), Count) end) end),
    json([{seconds, Taken}]);
obey({rtt, Node, Count}) ->
    Trips = lists:sort(alone(fun() -> [trip({?ECHO, Node}) || _ <- lists:seq(1, Count)] end)),
    Share = fun(Percent) -> lists:nth((Count * Percent + 99) div 100, Trips) end,
    json([{p50, Share(50)}, {p99, Share(99)}]);
obey({broadcast, Size}) ->
    Before = written(),
    Message = binary:copy(<<"b">>, Size),
    {Taken, _} = timed(fun() ->
        [{?COUNT, Node} ! Message || Node <- nodes(connected)],
        [handed(Port, Bytes + Size) || {Port, Bytes} <- Before]
    end),
    json([{links, length(Before)}, {seconds, Taken}]).

%% What is counted: binaries that came from another node.
count(Messages, Bytes, Messages, Waiting) ->
    Waiting ! reached,
    count(Messages, Bytes, none, none);
count(Messages, Bytes, Until, Waiting) ->
    receive
        Body when is_binary(Body) -> count(Messages + 1, Bytes + byte_size(Body), Until, Waiting);
        {totals, From} -> From ! {totals, Messages, Bytes}, count(Messages, Bytes, Until, Waiting);
        {wait, Wanted, From} when Wanted =< Messages -> From ! reached, count(Messages, Bytes, none, none);
        {wait, Wanted, From} -> count(Messages, Bytes, Wanted, From)
    end.

echo() ->
    receive From -> From ! pong end,
    echo().

send(_, _, 0) -> ok;
send(To, Message, Count) -> To ! Message, send(To, Message, Count - 1).

trip(To) ->
    {Taken, _} = timed(fun() -> To ! self(), receive pong -> ok after ?PATIENCE -> error(no_answer) end end),
    Taken.

%% The connections of other nodes, and how many bytes each has been given.
written() ->
    [{Port, Bytes} || Port <- erlang:ports(), erlang:port_info(Port, name) =:= {name, "tcp_inet"},
                      {ok, _} <- [inet:peername(Port)], {output, Bytes} <- [erlang:port_info(Port, output)]].

handed(Port, Bytes) ->
    case erlang:port_info(Port, output) of
        {output, Now} when Now < Bytes -> erlang:yield(), handed(Port, Bytes);
        _ -> ok
    end.

%% Do it in a process of its own, whose heap is empty.
alone(Do) ->
    {_, Monitor} = spawn_monitor(fun() -> exit({done, Do()}) end),
    receive
        {'DOWN', Monitor, process, _, {done, What}} -> What;
        {'DOWN', Monitor, process, _, {Why, _}} -> error(Why)
    end.

timed(Do) ->
    Began = erlang:monotonic_time(nanosecond),
    What = Do(),
    {(erlang:monotonic_time(nanosecond) - Began) / 1.0e9, What}.

json(Pairs) ->
    ["{", lists:join(", ", [["\"", atom_to_list(Key), "\": ", value(Value)] || {Key, Value} <- Pairs]), "}"].

value(Value) when is_float(Value) -> float_to_binary(Value, [{decimals, 9}]);
value(Value) when is_integer(Value) -> integer_to_binary(Value);
value(Value) -> Value.

%% The part of epmd.
start_link() -> ignore.

register_node(Name, Port) -> register_node(Name, Port, inet).

register_node(_Name, Port, _Family) ->
    persistent_term:put(own_port, Port),
    {ok, rand:uniform(1 bsl 31)}.

address_please(_Name, _Host, inet) -> {ok, {127, 0, 0, 1}, persistent_term:get(peer_port), 6}.

port_please(Name, Host) -> port_please(Name, Host, infinity).

port_please(_Name, _Host, _Timeout) -> {port, persistent_term:get(peer_port), 6}.

listen_port_please(_Name, _Host) -> {ok, 0}.

names(_Host) -> {error, address}.

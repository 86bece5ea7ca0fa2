#!/usr/bin/env bash
# Runs every node of a `carillon cluster init --local` folder on this machine, in the foreground,
# each line of output behind the name of its node. Ctrl-C or SIGTERM drains all of them, a second
# one ends them at once. A node that ends by itself, or is killed to see what happens, is started
# again after three seconds; one that ends within five seconds of its start ends all.
#
#   cluster.sh CARILLON DIR
set -eu
# Every node gets a process group of its own: Ctrl-C would reach it beside the SIGTERM from
# here, and a node takes the second signal for haste.
set -m

if [ $# -ne 2 ]; then
	echo "usage: cluster.sh CARILLON DIR" >&2
	exit 2
fi
carillon=$1
dir=$2
nodes=$(sed -n 's/^  "\([A-Za-z0-9_-]*\)":$/\1/p' "$dir/cluster.yaml")
if [ -z "$nodes" ]; then
	echo "$dir/cluster.yaml is not as carillon cluster init --local writes it; remove the folder, or start the nodes by hand" >&2
	exit 2
fi
pids=

stop() {
	for pid in $pids; do
		kill -TERM "$pid" 2>/dev/null || true
	done
}

end() {
	status=$?
	trap stop INT TERM
	stop
	until wait; do :; done # a signal ends it early
	exit "$status"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

label() {
	while IFS= read -r line; do printf '%s | %s\n' "$1" "$line"; done
}

start() {
	"$carillon" serve --config "$dir/cluster.yaml" --node "$1" --dev 2>&1 | label "$1" &
	pid=$(jobs -p %%) # the first process of the pipe, which is the node
	eval "pid_$2=$pid began_$2=$SECONDS"
	pids="$pids $pid"
}

rest() {
	sleep "$1" &
	wait $! || true
}

count=0
for node in $nodes; do
	start "$node" "$count"
	count=$((count + 1))
done

# Looked at every second: what `wait` could tell of whichever ends first, old shells do not know.
while :; do
	i=0
	for node in $nodes; do
		eval "pid=\$pid_$i began=\$began_$i"
		if ! kill -0 "$pid" 2>/dev/null; then
			if [ $((SECONDS - began)) -lt 5 ]; then
				echo "node $node has ended right after its start; ending the others" >&2
				exit 1
			fi
			echo "node $node has ended; it is started again in 3 s" >&2
			rest 3
			start "$node" "$i"
		fi
		i=$((i + 1))
	done
	rest 1
done

#!/usr/bin/env bash
# Runs every node of a `carillon cluster init --local` folder on this machine, in the foreground,
# each line of output behind the name of its node. Ctrl-C or SIGTERM drains all of them, a second
# one ends them at once. If a node ends, so do the others: nobody would notice it otherwise.
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

for node in $nodes; do
	"$carillon" serve --config "$dir/cluster.yaml" --node "$node" --dev 2>&1 | label "$node" &
	pids="$pids $(jobs -p %%)" # the first process of the pipe, which is the node
done

# Looked at every second: what `wait` could tell of whichever ends first, old shells do not know.
while :; do
	for pid in $pids; do
		if ! kill -0 "$pid" 2>/dev/null; then
			echo "a node has ended; ending the others" >&2
			exit 1
		fi
	done
	sleep 1 &
	wait $! || true
done

// Command carillon runs a Carillon node and administers one.
//
// It is thin. `carillon serve` reads the configuration, builds a node.Node and waits for it;
// every other command is a client of a running node over HTTP (NATS for tail), or works on
// files alone (match, config check). What a command prints with -o json is what the
// administration API answered, byte for byte but for the spaces.
//
// Promises to scripts: results go to stdout and everything else to stderr; exit codes are 0
// done, 1 failed, 2 wrong usage or refused input, 3 not found, 4 not permitted, 5 server
// unreachable; flags may stand before or after arguments, the global ones anywhere.
//
// Start reading at main.go and args.go (how a command line is understood), then app.go (the
// list of commands). client.go is how the server is asked, output.go how answers are printed.
package main

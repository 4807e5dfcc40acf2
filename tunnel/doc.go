// Package tunnel is the SSH side of rlca: it finds out where a name leads, as the user's ssh would, dials it,
// keeps one connection up, and puts a local port in front of an address on the far side.
//
// What it promises: a host key is never trusted silently; no call that waits on the network is without a limit; the
// local listener outlives every connection and is open to this machine alone; nothing is asked of a person below
// this room's callers: what needs an answer is an error with the facts in it.
package tunnel

// Package gateway is the HTTP face of the local port: what a coding harness talks to when it believes that the model is
// on this machine.
//
// While the box can be reached it passes the caller's bytes on as they are, one request after the other, and writes each
// piece of an answer in the moment in which it comes. While the box cannot be reached it holds the request, and answers
// 503 with a reason that harnesses print. It never refuses a connection, never ends an answer that is not whole in a way
// that looks whole, and never gives the box a prompt twice or one whose caller has left. A web page does not get
// through it.
//
// It asks a function for its far side and knows nothing of SSH. It keeps no text of a prompt or an answer.
package gateway

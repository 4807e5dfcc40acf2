package fit

// fits reports whether c finds room: in all of the budget, and with whole
// layers on every one of several GPUs.
func (p *pricer) fits(c cost) bool {
	return c.total <= *p.ask.Budget && (len(p.ask.Cards) == 0 || p.split(c) != nil)
}

// split says how many layers each GPU takes, the output counting as one more,
// or nil if they do not all find room. Every GPU pays for a compute buffer and
// a context of its own; what is left takes whole layers, which weigh the same
//
//	(weights + KV + state) / (layers + 1)
//
// llama.cpp's --fit and Ollama both move layers until each GPU has what it can
// hold (llama.cpp common/fit.cpp), so a small card beside a large one is of use
// as long as it holds a layer.
func (p *pricer) split(c cost) []int {
	n := p.model.Layers + 1
	if n < 2 {
		n = 2 // not known: halves
	}
	layers := add(add(p.weights, c.kv), add(c.state, c.tied))
	each := layers / Bytes(n)
	if each*Bytes(n) < layers {
		each++
	}
	fixed := (c.compute + c.reserve) / Bytes(len(p.ask.Cards))
	room, sum := make([]int, len(p.ask.Cards)), 0
	for i, card := range p.ask.Cards {
		if left := card - fixed; left > 0 {
			room[i] = int(min(left/max(each, 1), Bytes(n)))
		}
		sum += room[i]
	}
	if sum < n {
		return nil
	}
	out, placed := make([]int, len(room)), 0
	for i := range room { // each its share, rounded down
		out[i] = room[i] * n / sum
		placed += out[i]
	}
	for i := 0; placed < n; i = (i + 1) % len(room) {
		if out[i] < room[i] {
			out[i]++
			placed++
		}
	}
	return out
}

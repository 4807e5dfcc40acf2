package probe

import (
	"regexp"
	"strconv"
	"strings"
)

// container is an engine in a container, and where its port is published; port 0 if it is not.
type container struct {
	engine, host string
	port         int
	version      string // of the image's tag, where that is one
	from         string
}

// publishedPort is "0.0.0.0:11434->11434/tcp", of a range the first; ":::11434" and "[::]:11434" are IPv6.
var publishedPort = regexp.MustCompile(`(?:^|[\s,])(?:(\S*):)?(\d+)(?:-\d+)?->(\d+)(?:-\d+)?/tcp`)

var versionTag = regexp.MustCompile(`:v?(\d+\.\d+[0-9.]*)`)

// containers reads rows of docker ps or podman ps that have the image and the ports, and finds the engines by the
// image. The port of an engine is the one that leads to its own inside, else the first.
func containers(text string) (list []container) {
	for line := range strings.SplitSeq(text, "\n") {
		if len(list) >= maxRows {
			break
		}
		for _, word := range strings.Fields(line) {
			k := imageOf(word)
			if k == nil {
				continue
			}
			c := container{engine: k.name}
			if m := versionTag.FindStringSubmatch(word[strings.LastIndexByte(word, '/')+1:]); m != nil {
				c.version = m[1]
			}
			for _, m := range publishedPort.FindAllStringSubmatch(line, maxGPUs) {
				port, _ := strconv.Atoi(m[2])
				if port < 1 || port > 65535 || c.port != 0 && m[3] != strconv.Itoa(k.port) {
					continue
				}
				host := strings.Trim(m[1], "[]")
				if host == "" {
					host = "*"
				}
				if c.port == port && exposed(c.host) { // the same for the other family
					continue
				}
				c.host, c.port = host, port
			}
			list = append(list, c)
			break
		}
	}
	return list
}

// imageOf knows an engine by the name of an image: docker.io/ollama/ollama:0.12.1, vllm/vllm-openai@sha256:…,
// ghcr.io/ggml-org/llama.cpp:server-cuda. It has to have a folder: a plain word may be anything.
func imageOf(word string) *kind {
	name, _, _ := strings.Cut(word, "@")
	if !strings.Contains(name, "/") || strings.HasPrefix(name, "/") {
		return nil
	}
	name, _, _ = strings.Cut(name[strings.LastIndexByte(name, '/')+1:], ":")
	for i, k := range kinds {
		if name == k.name || k.name == "vllm" && strings.HasPrefix(name, "vllm") || k.name == "llama-server" && strings.HasPrefix(name, "llama.cpp") {
			return &kinds[i]
		}
	}
	return nil
}

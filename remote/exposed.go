package remote

import (
	"fmt"
	"net"
)

// Remedy says what the owner of an exposed server does to bind it to loopback. rlca does not do it: the server is not
// its own.
func (s *Server) Remedy() string {
	_, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		port = "PORT"
	}
	switch {
	case s.How == "in a container" || s.How == "container":
		return fmt.Sprintf("publish its port as -p 127.0.0.1:%s:%s", port, port)
	case s.Engine == "LM Studio":
		return "switch off “Serve on Local Network” in the settings of its server, or there: lms server start --bind 127.0.0.1 --port " + port
	case s.Engine == "TGI":
		return "start it with --hostname 127.0.0.1"
	case s.Engine == "TensorRT-LLM":
		return "start it with --host localhost"
	case s.Engine == "TabbyAPI":
		return "set host: 127.0.0.1 under network: in its config.yml"
	case s.Engine == "text-generation-webui":
		return "start it without --listen"
	case s.Engine == openAITitle:
		return "have it listen on 127.0.0.1 alone; most such servers take --host 127.0.0.1"
	case s.Engine != "Ollama":
		return "start it with --host 127.0.0.1"
	case s.How == "system service":
		return fmt.Sprintf(`sudo systemctl edit ollama, and there: [Service] Environment="OLLAMA_HOST=127.0.0.1:%s"; then sudo systemctl restart ollama`, port)
	case s.How == "Windows desktop app":
		return "switch off “Expose Ollama to the network” in the app's settings; if it is off, remove OLLAMA_HOST from the account's environment variables, then quit the app and start it again"
	case s.How == "Windows service":
		return fmt.Sprintf("set OLLAMA_HOST=127.0.0.1:%s in the environment of its service, or as the system's environment variable, then restart the service", port)
	case s.How == "desktop app":
		return "switch off “Expose Ollama to the network” in the app's settings"
	}
	return "start it with OLLAMA_HOST=127.0.0.1:" + port
}

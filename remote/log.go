package remote

import (
	"context"
	"fmt"
	"strings"
)

// logScript prints the end of a log: of the server that we started, else of the system service or the desktop app.
const logScript = `
f=$D/%s
[ -r "$f" ] || f=$HOME/.ollama/logs/server.log
if [ -r "$f" ]; then tail -n 400 "$f"
elif command -v journalctl >/dev/null 2>&1; then journalctl --no-pager -q -o cat -u ollama -n 400 2>/dev/null; fi | cut -c 1-2000 | while IFS= read -r l; do say log "$l"; done
`

// Log returns the end of the server's log.
func (o *Ollama) Log(ctx context.Context) (string, error) {
	var a *answer
	var err error
	if o.windows() {
		a, err = o.powershell(ctx, "log", windowsLog, map[string]any{"log": o.logFile()})
	} else {
		a, err = o.script(ctx, fmt.Sprintf(logScript, quote(o.logFile())))
	}
	if err != nil {
		return "", fmt.Errorf("read the engine's log: %w", err)
	}
	if len(a.lines["log"]) == 0 {
		return "", nil
	}
	return strings.Join(a.lines["log"], "\n") + "\n", nil
}

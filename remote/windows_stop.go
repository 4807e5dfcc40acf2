package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// task is a process of a Windows box.
type task struct {
	pid, parent int
	// born is when, in milliseconds since Windows' own beginning of time; 0 is not known.
	born  int64
	bytes int64  // of its own
	name  string // "ollama.exe", "ollama_app.exe"
	words string // its command line, of shells and Ollama's programs alone
}

// tasks are what runs on a Windows box, and the record of what was started there under a name.
type tasks struct {
	record
	born int64 // of the record's process
	all  []task
}

// windowsTasks lists all processes where there is a record, a mark, or somebody wants them anyway. It waits for a launch that
// is under way.
const windowsTasks = `if($arg.lock -and (Test-Path $dir)){
` + windowsLock + `}
$r=rec
if($r){say pid $r.pid;say born $r.born;say mark $r.mark;say address $r.address}
if(!$r -and !$arg.mark -and !$arg.any){return}
foreach($p in @(Get-CimInstance Win32_Process -ea 1)){
$c='';if($p.Name -match '^(cmd\.exe|ollama|llama)'){$c=$p.CommandLine}
$b=0;if($p.CreationDate){$b=ms $p.CreationDate}
say task "$($p.ProcessId) $($p.ParentProcessId) $b $($p.PrivatePageCount) $($p.Name -replace ' ','_') $c"}`

// tasks lists the processes of the box beside the record of name. Without a record there are none, unless a mark is given or always is true.
func (h *host) tasks(ctx context.Context, name, mark string, always bool) (*tasks, error) {
	a, err := h.powershell(ctx, "tasks", windowsTasks, map[string]any{"name": name, "mark": mark, "any": always, "lock": !always})
	if errors.Is(err, errDenied) && a.get("mark") == "" {
		return &tasks{}, nil
	}
	if err != nil {
		return nil, err
	}
	t := &tasks{record: record{pid: a.int("pid"), mark: a.get("mark"), address: a.get("address")}}
	t.born, _ = strconv.ParseInt(a.get("born"), 10, 64)
	for _, line := range a.lines["task"] {
		w := strings.SplitN(line, " ", 6)
		if len(w) < 5 {
			continue
		}
		w = append(w, "")
		var p task
		var err1, err2 error
		p.pid, err1 = strconv.Atoi(w[0])
		p.parent, err2 = strconv.Atoi(w[1])
		if err1 != nil || err2 != nil || p.pid <= 4 {
			continue
		}
		p.born, _ = strconv.ParseInt(w[2], 10, 64)
		p.bytes, _ = strconv.ParseInt(w[3], 10, 53)
		p.name, p.words = w[4], w[5]
		t.all = append(t.all, p)
	}
	return t, nil
}

func (t *tasks) find(pid int) *task {
	if i := slices.IndexFunc(t.all, func(p task) bool { return p.pid == pid }); i >= 0 {
		return &t.all[i]
	}
	return nil
}

// ofOllama says whether a program is one that Ollama starts.
func (p task) ofOllama() bool {
	return strings.HasPrefix(p.name, "ollama") && p.name != "ollama_app.exe" || strings.HasPrefix(p.name, "llama")
}

// family lists what was started under the record, or under mark if there is no record, parents before their children. The
// process of the record counts only with its time of birth: its number may be somebody else's by now. A child counts if it is
// younger than its parent, and the child of a dead parent if it is also older than what has the parent's number now.
func (t *tasks) family(mark string) (list []task) {
	mark = cmp.Or(mark, t.mark)
	add := func(p task) {
		if p.born > 0 && p.name != "conhost.exe" && !slices.ContainsFunc(list, func(q task) bool { return q.pid == p.pid }) {
			list = append(list, p)
		}
	}
	for _, p := range t.all {
		if mark != "" && strings.EqualFold(p.name, "cmd.exe") && strings.Contains(p.words, "RLCA_OWNER="+mark+"&") {
			add(p)
		}
	}
	if t.mark == mark && t.pid > 0 && t.born > 0 {
		now := t.find(t.pid)
		if now != nil && now.born == t.born {
			add(*now)
		} else {
			for _, p := range t.all {
				if p.parent == t.pid && p.born >= t.born && p.ofOllama() && (now == nil || p.born < now.born) {
					add(p)
				}
			}
		}
	}
	for i := 0; i < len(list); i++ { // it grows
		for _, p := range t.all {
			if p.parent == list[i].pid && p.born >= list[i].born {
				add(p)
			}
		}
	}
	return list
}

// windowsKill ends processes by force, which is all that Windows has for one without a window. The handle is taken before
// its time of birth is compared: while it is held, nobody else gets the number.
const windowsKill = `foreach($q in $arg.list){
try{$p=gps -Id $q.pid -ea 1}catch{continue}
try{$null=$p.Handle
if("$(ms $p.StartTime)" -eq $q.born){$p.Kill();$null=$p.WaitForExit(3000)}
}catch{if(!$p.HasExited){say failed "$($q.pid): $($_.Exception.Message)"}}}`

// windowsForgetRecord removes a record, unless it is another's by now, and files beside it. A log that something still reads
// stays.
const windowsForgetRecord = `if(!(Test-Path $dir)){return}
$r=rec
if($r -and $arg.mark -and $r.mark -ne $arg.mark){return}
foreach($f in $arg.files){ri "$dir\$f"}
if(Test-Path "$dir\$($arg.name).json"){ri "$dir\$($arg.name).json" -ea 1}
` + windowsTidy

// haltRounds is how often a family is looked for again: a runner may just be being started. killMost is how many are ended in
// one round, by one command.
const haltRounds, killMost = 6, 20

// haltWindows is halt on a Windows box.
func (h *host) haltWindows(ctx context.Context, name, mark string, files ...string) (halted, error) {
	var ended halted
	var why []string
	for round := 0; ; round++ {
		t, err := h.tasks(ctx, name, mark, false)
		if err != nil {
			return halted{}, err
		}
		if mark != "" && t.mark != "" && t.mark != mark {
			return halted{}, nil
		}
		list := t.family(mark)
		if len(list) == 0 {
			break
		}
		if round == haltRounds {
			return halted{}, fmt.Errorf("stop %s on the box: process %d (%s) does not end, not even by force: %s", name, list[0].pid, list[0].name, strings.Join(why, "; "))
		}
		if ended.pid == 0 {
			ended.record = record{pid: cmp.Or(t.pid, list[0].pid), mark: t.mark, address: t.address}
		}
		var words []map[string]any
		for _, p := range list[:min(len(list), killMost)] {
			words = append(words, map[string]any{"pid": p.pid, "born": strconv.FormatInt(p.born, 10)})
		}
		a, err := h.powershell(ctx, "kill", windowsKill, map[string]any{"list": words})
		if err != nil {
			return halted{}, err
		}
		why = a.lines["failed"]
		if round == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return halted{}, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	_, err := h.powershell(ctx, "forget", windowsForgetRecord, map[string]any{"name": name, "mark": mark, "files": files})
	return ended, err
}

// windowsMemory says what the box and its NVIDIA GPUs have free. Windows itself does not tell what a process holds on a GPU.
const windowsMemory = `$env:PATH+=";$env:ProgramFiles\NVIDIA Corporation\NVSMI"
say available (Get-CimInstance Win32_OperatingSystem -OperationTimeoutSec 5).FreePhysicalMemory
if(gcm nvidia-smi){
nvidia-smi '--query-compute-apps=pid,used_memory' '--format=csv,noheader,nounits'|%{say card $_}
nvidia-smi '--query-gpu=memory.free' '--format=csv,noheader,nounits'|%{say free $_}}`

// holdingWindows is what holdingScript answers, of a Windows box.
func (h *host) holdingWindows(ctx context.Context, job string, pids []string) (*answer, error) {
	t, err := h.tasks(ctx, job, "", true)
	if err != nil {
		return nil, err
	}
	a, err := h.powershell(ctx, "memory", windowsMemory, map[string]any{})
	if err != nil {
		return nil, err
	}
	list := t.all
	if job != "" {
		list = t.family("")
	}
	for _, p := range list {
		if job != "" || slices.Contains(pids, strconv.Itoa(p.pid)) {
			a.lines["held"] = append(a.lines["held"], fmt.Sprintf("%d %d", p.pid, p.bytes>>10))
		}
	}
	return a, nil
}

// orphansWindows is Orphans on a Windows box. A stranger's runner counts if the process that has its parent's number, if any,
// is younger than it.
func (h *host) orphansWindows(ctx context.Context) ([]Orphan, error) {
	t, err := h.tasks(ctx, "ollama", "", true)
	if err != nil {
		return nil, fmt.Errorf("look for what dead engines left running: %w", err)
	}
	a, err := h.powershell(ctx, "memory", windowsMemory, map[string]any{})
	if err != nil {
		return nil, fmt.Errorf("look for what dead engines left running: %w", err)
	}
	cards := cardsOf(a)
	var ours []task
	if t.mark != "" {
		ours = t.family("")
	}
	server := t.find(t.pid)
	dead := t.mark != "" && (server == nil || server.born != t.born)
	var list []Orphan
	for _, p := range t.all {
		o := Orphan{PID: p.pid, Name: p.name, Engine: "Ollama", Bytes: p.bytes, VRAMBytes: cards[p.pid], job: "ollama", windows: true}
		parent := t.find(p.parent)
		switch {
		case slices.ContainsFunc(ours, func(q task) bool { return q.pid == p.pid }):
			if !dead {
				continue
			}
			o.Ours, o.mark = true, t.mark
		case p.born == 0 || !p.runs() || parent != nil && parent.born <= p.born:
			continue
		}
		if strings.Contains(p.words, " runner") {
			o.Name = strings.TrimSuffix(p.name, ".exe") + " runner"
		}
		list = append(list, o)
	}
	slices.SortStableFunc(list, func(a, b Orphan) int { return cmp.Compare(b.Bytes+b.VRAMBytes, a.Bytes+a.VRAMBytes) })
	return list, nil
}

// runs says whether a process is one that Ollama runs a model in, whichever Ollama's.
func (p task) runs() bool {
	switch {
	case p.name == "ollama_llama_server.exe":
		return true
	case p.name == "ollama.exe":
		return strings.Contains(p.words, " runner")
	}
	return p.name == "llama-server.exe" && strings.Contains(strings.ToLower(p.words), `\ollama\`)
}

// endOrphansWindows ends those of a list that are ours.
func (h *host) endOrphansWindows(ctx context.Context, list []Orphan) error {
	done := map[string]bool{}
	var errs []error
	for _, o := range list {
		if !o.Ours || done[o.mark] {
			continue
		}
		done[o.mark] = true
		ended, err := h.haltWindows(ctx, o.job, o.mark, o.job+".log", o.job+".log.old")
		if err != nil {
			errs = append(errs, fmt.Errorf("end what a dead %s left behind: %w", o.Engine, err))
			continue
		}
		h.log.Info("ended what a dead engine left behind", "engine", o.job, "pid", ended.pid)
	}
	return errors.Join(errs...)
}

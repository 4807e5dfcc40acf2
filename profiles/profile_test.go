package profiles

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// Every field of Profile has its key, in the same order, and at leads to it.
func TestKeysAreTheFields(t *testing.T) {
	var p Profile
	var want []string
	var walk func(section string, v reflect.Value)
	walk = func(section string, v reflect.Value) {
		for i := range v.NumField() {
			tag := v.Type().Field(i).Tag
			name := tag.Get("toml")
			if j, _, _ := strings.Cut(tag.Get("json"), ","); j != name {
				t.Errorf("field %s is %q in TOML and %q in JSON", v.Type().Field(i).Name, name, j)
			}
			if v.Field(i).Kind() == reflect.Struct {
				walk(name+".", v.Field(i))
				continue
			}
			want = append(want, section+name)
			if n := len(want); n <= len(keys()) {
				if k := keys()[n-1]; k.at(&p) != v.Field(i).Addr().Interface() {
					t.Errorf("key %s leads to another field than %s", k.label(), section+name)
				}
			}
		}
	}
	walk("", reflect.ValueOf(&p).Elem())
	var got []string
	for _, k := range keys() {
		got = append(got, k.label())
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("keys are %v\nwant %v", got, want)
	}
}

// Each key's example is a value that the key takes.
func TestExamplesAreGood(t *testing.T) {
	for _, k := range keys() {
		text := "host = \"h\"\n"
		switch {
		case k.label() == "host":
			text = ""
		case k.section != "":
			text += "[" + k.section + "]\n"
		}
		if _, err := Parse("p.toml", []byte(text+k.name+" = "+k.example+"\n")); err != nil {
			t.Errorf("example of %s: %v", k.label(), err)
		}
	}
}

func TestDefaultsAreGood(t *testing.T) {
	p := Default()
	p.Host = "spark-box"
	got, err := Parse("spark.toml", []byte(`host = "spark-box"`))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*got, p) {
		t.Errorf("a file with host alone is %+v, want the defaults %+v", *got, p)
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 100 * time.Second: "100s", 2 * time.Minute: "2m", time.Hour: "1h", 90 * time.Minute: "1h30m",
		time.Hour + time.Second: "1h0m1s", 10 * time.Minute: "10m", 20 * time.Hour: "20h", 250 * time.Millisecond: "250ms",
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("Duration(%v).String() = %s, want %s", d, got, want)
		}
		var back Duration
		if err := back.UnmarshalText([]byte(want)); err != nil || back.Duration() != d {
			t.Errorf("UnmarshalText(%s) = %v, %v, want %v", want, back, err, d)
		}
	}
}

// A profile crosses the supervisor's socket as JSON.
func TestJSON(t *testing.T) {
	p := full()
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back Profile
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(p, back) {
		t.Errorf("through JSON the profile is %+v, want %+v", back, p)
	}
	for _, want := range []string{`"min_bits":3`, `"keep_alive":"30m"`, `"hold":"2m"`, `"also":["127.0.0.1:3000:localhost:3000","[::1]:3001:[fd00::2]:80"]`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("JSON of a profile lacks %s: %s", want, data)
		}
	}
}

func TestAlso(t *testing.T) {
	for in, want := range map[Also][2]string{
		"127.0.0.1:3000:localhost:3000": {"127.0.0.1:3000", "localhost:3000"},
		"localhost:80:10.0.0.7:8080":    {"localhost:80", "10.0.0.7:8080"},
		"[::1]:3000:[fd00::2]:3001":     {"[::1]:3000", "[fd00::2]:3001"},
		"127.1.2.3:1:a-b.example:65535": {"127.1.2.3:1", "a-b.example:65535"},
	} {
		listen, target, err := in.Split()
		if err != nil || listen != want[0] || target != want[1] {
			t.Errorf("Also(%q).Split() = %q, %q, %v, want %q", in, listen, target, err, want)
		}
	}
	for _, in := range []Also{
		"", ":", ":::", "3000", "3000:localhost:3000", "127.0.0.1:3000:localhost", "127.0.0.1:3000:localhost:", "127.0.0.1::a:1",
		":3000:a:1", "127.0.0.1:3000::1", "::1:3000:a:1", "[::1:3000:a:1", "[::1]3000:a:1", "[::1]:3000:[fd00::2:1", "[::1]:3000:fd00::2:1",
		"127.0.0.1:0:a:1", "127.0.0.1:1:a:0", "127.0.0.1:65536:a:1", "127.0.0.1:1:a:65536", "127.0.0.1:x:a:1", "127.0.0.1:1:a:+1",
		"0.0.0.0:1:a:1", "*:1:a:1", "192.168.1.2:1:a:1", "[::]:1:a:1", "spark:1:a:1", "127.0.0.1:1:a b:1", "127.0.0.1:1:-a:1", "127.0.0.1:1:[a]:1",
		"127.0.0.1:1:a:1:", "127.0.0.1:1:a:1]",
	} {
		if listen, target, err := in.Split(); err == nil {
			t.Errorf("Also(%q).Split() = %q, %q, want an error", in, listen, target)
		}
	}
}

// full is a profile in which nothing has its default, but for what mode tcp cannot have.
func full() Profile {
	return Profile{
		Host: "spark-box", User: `CORP\me`, Port: 2222,
		Identity: []string{"~/.ssh/id_ed25519", `C:\Users\me\.ssh\id "old"`},
		Jump:     []string{"bastion", "me@[fd00::1]:2022"},
		Model:    Model{Name: "qwen3-coder:30b", Context: 0, Parallel: 2, MinBits: 3},
		Engine: Engine{Name: "vllm", Install: "never", Address: "[::1]:8000", KeepAlive: "30m",
			Args: []string{"--chat-template-kwargs", "{\"a\": \"é\\n\t\x01\u2028\"}\n", ""}},
		Forward: Forward{Listen: "[::1]:11500", Mode: "tcp", Token: "none", Allow: "all", Hold: Duration(2 * time.Minute),
			Also: []Also{"127.0.0.1:3000:localhost:3000", "[::1]:3001:[fd00::2]:80"}},
		Cluster: Cluster{Workers: []string{"spark-2", "spark_3.lan"}},
	}
}

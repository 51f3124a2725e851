package spool_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cmtpd/internal/cmtptest"
)

// TestSpool_FileSystems kills processes that have a spool on file systems whose journals
// differ, and cuts the power of these, from which every acknowledgement has to survive.
func TestSpool_FileSystems(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			t.Logf("-crashseed %d", *crashSeed)
			m := cmtptest.NewMount(t, kind)
			v := newVictim(t, filepath.Join(m.Dir, "spool"), *crashSeed)
			cuts := 0
			for n := range 24 {
				if n%2 == 0 {
					v.kill(n%8 == 6)
				} else {
					v.run(n%8 == 7, func(p *os.Process) {
						v.cut.Store(true)
						m.Stop(t)
						p.Kill()
					})
					m.Restart(t)
					cuts++
				}
				v.check()
				// What was seen after a kill counts as said from then on, but may be in the page cache
				// alone, and the next power cut may come before a process has opened the spool.
				if out, err := exec.Command("sync", "-f", m.Dir).CombinedOutput(); err != nil {
					t.Fatalf("sync: %v\n%s", err, out)
				}
			}
			v.finish()
			t.Logf("%d kills, %d power cuts, %d of them during a compaction", v.runs-cuts, cuts, v.hits)
		})
	}
}

package daemon

import (
	"fmt"
	"io/fs"
	"os"
	"time"

	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/status"
	"cmtpd/internal/version"
)

// page makes the status page. What it shows is what metrics, log and command line say, too.
func (d *daemon) page() status.Page {
	state, _ := d.state()
	return status.Page{
		Host: d.config().Hostname.String(), Version: version.Number, Now: time.Now(), Since: d.began, State: state,
		Traffic: d.metrics.Traffic(), Troubles: d.troubles.Recent(),
		Tables: []status.Table{d.spoolTable(), d.queueTable(), d.keysTable(), d.limitsTable()},
	}
}

// some is a row of a number that should be 0.
func some(name string, n uint64, note string) status.Row {
	r := status.Row{Name: name, Value: status.Count(n)}
	if n > 0 {
		r.Grade, r.Note = status.Fair, note
	}
	return r
}

func (d *daemon) spoolTable() status.Table {
	st := d.spool.Stats()
	scrubbed := status.Row{Name: "Last read whole", Value: "not since the start", Note: fmt.Sprintf("It is read once in %v.", status.Span(d.cfg.Spool.ScrubEvery))}
	if !st.Scrubbed.IsZero() {
		scrubbed.Value = status.When(st.Scrubbed)
	}
	free := status.Row{Name: "Free disk", Value: "unknown", Grade: status.Bad}
	if n, err := durable.FreeSpace(d.cfg.SpoolDir()); err == nil {
		need := uint64(d.config().Limits.MinFreeSpace)
		free = status.Row{Name: "Free disk", Value: status.Bytes(n), Note: "Mail is refused below " + status.Bytes(need) + "."}
		switch {
		case n < need:
			free.Grade = status.Bad
		case n < 2*need:
			free.Grade = status.Fair
		}
	}
	return status.Table{Caption: "Spool", Rows: []status.Row{
		{Name: "Messages", Value: status.Count(st.Messages)}, {Name: "Size", Value: status.Bytes(uint64(st.Bytes))},
		{Name: "Head", Value: status.Count(st.Head.Number)}, {Name: "Segments", Value: status.Count(st.Segments)},
		some("Damaged places", uint64(st.Damage), "cmtpd spool verify names them."), scrubbed, free,
	}}
}

func (d *daemon) queueTable() status.Table {
	st, trust := d.elsewhere.Queue.Stats(), d.trust.Stats()
	oldest := "none"
	if !st.Oldest.IsZero() {
		oldest = status.Span(time.Since(st.Oldest))
	}
	return status.Table{Caption: "Other servers", Rows: []status.Row{
		{Name: "Messages that wait", Value: status.Count(st.Queued)}, {Name: "Oldest of them", Value: oldest},
		{Name: "For domains", Value: status.Count(st.Destinations)}, some("Held by you", uint64(st.Held), "cmtpd queue release lets them go."),
		{Name: "Known domains", Value: status.Count(trust.Domains)},
		some("Held domains", uint64(trust.Held), "Their keys are not trusted: cmtpd trust list --held."),
	}}
}

func (d *daemon) keysTable() status.Table {
	path := d.cfg.KeyFile()
	rows := []status.Row{{Name: "Fingerprint", Value: d.identity.Public().String(), Code: true}, dated("File written", path, "")}
	if n := len(d.formers); n > 0 { // as they were read at the start: no secret key is read for who looks at a page
		rows = append(rows, status.Row{Name: "Former keys", Value: status.Count(n)})
	}
	rotation := dated("Rotation", keyfile.NextPath(path), "A next key is prepared. cmtpd key rotate says what is due.")
	if rotation.Value == "" {
		rotation = status.Row{Name: "Rotation", Value: "none under way"}
	}
	successor := dated("Successor", keyfile.SuccessorPath(path), "")
	if successor.Value == "" {
		successor = status.Row{Name: "Successor", Value: "none", Note: "cmtpd key successor makes one for the worst day."}
	}
	return status.Table{Caption: "Identity key", Rows: append(rows, rotation, successor)}
}

// dated is a row with the time of a file, or without a value where there is none.
func dated(name, path, note string) status.Row {
	info, err := os.Lstat(path)
	switch {
	case os.IsNotExist(err):
		return status.Row{Name: name}
	case err != nil:
		return status.Row{Name: name, Value: "unknown", Note: err.(*fs.PathError).Err.Error(), Grade: status.Fair}
	}
	return status.Row{Name: name, Value: status.When(info.ModTime()), Note: note}
}

// limitsTable shows what is open, and the limits that were met since the start.
func (d *daemon) limitsTable() status.Table {
	open := d.front.Stats().Open
	t := status.Table{Caption: "Limits since the start", Rows: []status.Row{{Name: "Connections now",
		Value: status.Count(open) + " of " + status.Count(d.config().Limits.MaxConnections)}}}
	for name, n := range d.metrics.LimitsMet() {
		if n > 0 {
			t.Rows = append(t.Rows, status.Row{Name: name, Value: "met " + status.Count(n) + " times"})
		}
	}
	if len(t.Rows) == 1 {
		t.Rows = append(t.Rows, status.Row{Name: "Met", Value: "none"})
	}
	return t
}

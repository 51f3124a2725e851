# What the project can be asked to do. "make help" lists it.

# The release is pure Go and static; only the tests' race detector and the
# sodium build use cgo.
export CGO_ENABLED = 0
GO       = go
LDFLAGS  = -s -w
FUZZTIME = 10s
PACKAGES = ./...
PEERS    = libsodium-dev pkg-config gcc libc6-dev postfix swaks libnet-ssleay-perl openssl haproxy e2fsprogs mount strace xfsprogs knot unbound dbus-daemon gnome-keyring systemd chromium prometheus mandoc debootstrap nftables iproute2 libcap2-bin tmux

# What the race detector and the sodium build need is missed with CI=true, and
# left out elsewhere. Asked when used, since "make peers" may install it.
HAVE_CC     = $(or $(filter true,$(CI)),$(shell command -v gcc))
HAVE_SODIUM = $(or $(filter true,$(CI)),$(and $(HAVE_CC),$(shell pkg-config --exists libsodium 2>/dev/null && echo true)))
NO_SODIUM   = which needs gcc, pkg-config and libsodium-dev

# Mail servers that Debian does not install beside Postfix: their packages are only unpacked, for the
# tests to run them from here, and the libraries that they need are installed.
export MAIL_SERVERS ?= /var/cache/cmtpd-mail-servers
UNPACKED            = opensmtpd exim4-daemon-heavy exim4-config

.PHONY: help build man install deb release test check fuzz demo bench peers clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 10

build: ## build static bin/cmtpd and bin/shorebird
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/cmtpd ./cmd/shorebird

# The date of everything that is built for others: the commit's.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)

man: build ## write the manual pages, and completions for shells, into dist/
	bin/shorebird man dist/man
	bin/cmtpd man dist/man configs/cmtpd.toml
	@mkdir -p dist/completions
	for p in cmtpd shorebird; do for s in bash zsh fish; do bin/$$p completion $$s >dist/completions/$$p.$$s || exit 1; done; done

# What is there is not built again: as root there may be no Go.
PREFIX = /usr/local
SHARE  = $(DESTDIR)$(PREFIX)/share
install: $(if $(and $(wildcard bin/cmtpd),$(wildcard bin/shorebird),$(wildcard dist/man/man8)),,man) ## copy programs, manual and completions below PREFIX (and DESTDIR)
	install -d $(DESTDIR)$(PREFIX)/bin $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	install -m 755 bin/cmtpd bin/shorebird $(DESTDIR)$(PREFIX)/bin
	for n in 1 5 8; do install -d $(SHARE)/man/man$$n && install -m 644 dist/man/man$$n/*.$$n $(SHARE)/man/man$$n || exit 1; done
	for p in cmtpd shorebird; do \
	  install -m 644 dist/completions/$$p.bash $(SHARE)/bash-completion/completions/$$p && \
	  install -m 644 dist/completions/$$p.zsh $(SHARE)/zsh/site-functions/_$$p && \
	  install -m 644 dist/completions/$$p.fish $(SHARE)/fish/vendor_completions.d || exit 1; done

deb: ## build packages for Debian, archives and lists of contents (SBOM), for amd64 and arm64, into dist/
	$(GO) run ./cmd/release

release: deb ## the same

demo: build ## show everything working on this machine, and leave nothing behind
	$(GO) run ./cmd/demo -bin bin

# Asked by Debian's packages whether their services may start. Ours are started by
# the tests, on ports of their own.
POLICY = /usr/sbin/policy-rc.d

peers: ## install the programs that the tests talk to (Debian, as root)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  missing=$$(for p in $(PEERS); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	  if [ -n "$$missing" ]; then \
	    if [ ! -e $(POLICY) ]; then trap 'rm -f $(POLICY)' EXIT; printf '#!/bin/sh\nexit 101\n' >$(POLICY); chmod 755 $(POLICY); fi; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null || \
	    { [ "$$CI" != true ] && echo "not installed, so what needs it is left out, and named at the end:" $$missing; }; \
	  fi; \
	  set -e; for p in $(UNPACKED); do [ -e "$(MAIL_SERVERS)/$$p" ] || ( \
	    rm -rf "$(MAIL_SERVERS)/new" && mkdir -p "$(MAIL_SERVERS)/new" && cd "$(MAIL_SERVERS)/new" && \
	    { apt-get download -qq -o APT::Sandbox::User=root $$p || { apt-get update -qq && apt-get download -qq -o APT::Sandbox::User=root $$p; }; } && \
	    libs=$$(dpkg-deb -f $$p*.deb Depends | tr , '\n' | sed -n 's/^ *\(lib[^ |]*\).*/\1/p') && \
	    { [ -z "$$libs" ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$libs >/dev/null; } && \
	    dpkg-deb -x $$p*.deb tree && mv tree ../$$p && rm -rf ../new ) || \
	    { [ "$$CI" != true ] && echo "not unpacked, so what needs it is left out, and named at the end:" $$p; }; done; \
	else \
	  echo "not root on Debian, so nothing is installed: what needs a missing one of $(PEERS) is left out, and named at the end"; \
	fi

test: peers build ## run all tests, with the race detector, in both builds
	@left=$$(mktemp) && trap 'rm -f "$$left"' EXIT && export LEFT_OUT="$$left" CGO_ENABLED=$(if $(HAVE_CC),1,0) && \
	set -- $(GO) test $(if $(HAVE_CC),-race) -timeout 20m $(PACKAGES) && echo "$$@" && \
	{ "$$@"; status=$$?; sort "$$left"; exit $$status; }
	$(if $(HAVE_CC),,@echo "LEFT OUT: the race detector, which needs gcc")
	$(if $(HAVE_SODIUM),CGO_ENABLED=1 $(GO) test -tags sodium ./internal/crypt/... ./internal/xzibit/...,@echo "LEFT OUT: the comparison with libsodium, $(NO_SODIUM)")
	$(MAKE) --no-print-directory fuzz FUZZTIME=1500x

check: ## gofmt, vet, staticcheck, and govulncheck where its database can be reached
	@unformatted=$$(gofmt -l cmd internal); [ -z "$$unformatted" ] || { echo "not gofmt-ed: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(if $(HAVE_SODIUM),CGO_ENABLED=1 $(GO) vet -tags sodium ./...,@echo "LEFT OUT: go vet of the sodium build, $(NO_SODIUM)")
	$(GO) tool staticcheck ./...
	@out=$$($(GO) tool govulncheck ./... 2>&1); code=$$?; \
	if [ $$code -ne 0 ] && echo "$$out" | grep -qE 'dial|lookup|fetching vulnerabilities|no such host|timeout'; then \
	  echo "govulncheck left out: its database cannot be reached"; \
	else echo "$$out"; exit $$code; fi

# A number of executions, unlike a time, cannot run out in the middle of one. The
# minimiser is held short: it would spend a short run on the first new input.
fuzz: ## fuzz every parser for FUZZTIME each (make fuzz FUZZTIME=10m)
	@for file in $$(grep -rlE '^func Fuzz' --include='*_test.go' internal); do \
	  for f in $$(grep -oE '^func Fuzz[A-Za-z0-9_]*' $$file | cut -c6-); do \
	    echo "$$f in $$(dirname $$file)"; \
	    $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./$$(dirname $$file) || exit 1; \
	  done; \
	done

bench: peers build ## measure against real peers and write docs/benchmarks.md
	$(GO) run ./cmd/bench -out docs/benchmarks.md

clean: ## remove what was built
	rm -rf bin dist

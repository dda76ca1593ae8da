# SPDX-License-Identifier: Apache-2.0
# A thin front for Meson: one word for everything that a person does here.

B := build
BA := build-asan
BT := build-tsan
BF := build-fuzz
DEPS := tools/install-deps

PREFIX := /usr/local

.PHONY: install deb help demo test build check-layers fmt lint asan tsan fuzz bench clean deps deps-dev
.DEFAULT_GOAL := help

help:
	@echo 'Dormouse: sandboxes that sleep, wake and fork in milliseconds'
	@echo
	@echo '  make demo          build, then sleep, wake and fork a real guest; ends in one screen'
	@echo '  make test          everything: layers, unit tests under sanitizers, end-to-end tests'
	@echo '  make build         the programs, in $(B)/'
	@echo '  make check-layers  do the #includes keep to the table in docs/architecture.md?'
	@echo '  make fmt           clang-format over the tree'
	@echo '  make lint          clang build and clang-tidy'
	@echo '  make asan          developer build with AddressSanitizer and UBSan, in $(BA)/, and unit tests'
	@echo '  make tsan          ThreadSanitizer build in $(BT)/, and unit tests'
	@echo '  make fuzz          run every fuzz target for FUZZ_SECONDS (default 30) each'
	@echo '  make bench         every benchmark; make bench-NAME for tests/bench/NAME.py alone'
	@echo '  make install       into PREFIX ($(PREFIX)); DESTDIR=DIR puts the tree below DIR'
	@echo '  make deb           a Debian package, in build-deb/'
	@echo '  make clean         remove what was built'
	@echo
	@echo 'demo, test, asan, tsan and bench install missing Debian packages first (tools/install-deps).'

deps:
	@$(DEPS)

deps-dev:
	@$(DEPS) --dev

$(B)/build.ninja: | deps
	meson setup $(B)
$(BA)/build.ninja: | deps
	meson setup $(BA) -Db_sanitize=address,undefined -Db_lundef=false
$(BT)/build.ninja: | deps
	meson setup $(BT) -Db_sanitize=thread -Db_lundef=false

build: deps $(B)/build.ninja
	ninja -C $(B)

demo: build
	python3 tests/bench/demo.py --build-dir $(B)

test: build $(BA)/build.ninja
	ninja -C $(BA)
	tools/run-tests --unit $(BA) --e2e $(B)

check-layers:
	tools/check-layers

asan: deps $(BA)/build.ninja
	ninja -C $(BA)
	meson test -C $(BA) --no-rebuild --print-errorlogs

tsan: deps $(BT)/build.ninja
	ninja -C $(BT)
	meson test -C $(BT) --no-rebuild --print-errorlogs

fmt: deps-dev
	git ls-files 'src/**/*.[ch]' 'tests/**/*.[ch]' | xargs -r clang-format -i

lint: deps-dev
	tools/lint

fuzz: deps-dev
	tools/run-fuzz $(BF) $${FUZZ_SECONDS:-30}

bench: build
	@for b in tests/bench/*.py; do [ -e "$$b" ] || continue; echo "== $$b"; \
		python3 "$$b" --build-dir $(B) || exit; done

bench-%: build
	python3 tests/bench/$*.py --build-dir $(B)

install: build
	meson configure $(B) -Dprefix=$(PREFIX)
	ninja -C $(B)
	meson install -C $(B) --no-rebuild $(if $(DESTDIR),--destdir "$(abspath $(DESTDIR))")

deb: deps
	tools/make-deb

clean:
	rm -rf $(B) $(BA) build-deb $(BT) $(BF) build-clang

#!/usr/bin/env node
// oclif only warns about an old Node, and everything below would fail with a syntax error: refuse it before importing anything.
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 24 || (major === 24 && minor < 15)) {
  process.stderr.write(
    `hpcs: error: Node ${process.versions.node} is too old\n  hpcs-client needs Node 24.15 or newer; npx hpcs takes the one that came with it\n`,
  );
  process.exit(2);
}
const { keepCompiledCode } = await import('../dist/src/compile-cache.js');
keepCompiledCode();
const { standInForAccount } = await import('../dist/src/home.js');
standInForAccount();
await import('../dist/src/heap.js');
const { main } = await import('../dist/src/main.js');
void main(import.meta.url);

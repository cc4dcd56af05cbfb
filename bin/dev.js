#!/usr/bin/env node
// Runs the commands from their TypeScript sources, with Node's own type stripping: no build, no transpiler.
const { keepCompiledCode } = await import('../src/compile-cache.ts');
keepCompiledCode();
const { standInForAccount } = await import('../src/home.ts');
standInForAccount();
await import('../src/heap.ts');
const { main } = await import('../src/main.ts');
void main(import.meta.url, { source: true });

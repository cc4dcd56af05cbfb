#!/usr/bin/env node
// Runs the commands from their TypeScript sources, with Node's own type stripping: no build, no transpiler.
await import('../src/heap.ts');
const { main } = await import('../src/main.ts');
void main(import.meta.url, { source: true });

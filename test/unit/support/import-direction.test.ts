import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { importsOf, layerOf, readGraph, violations } from '../../support/import-direction.ts';

const check = (graph: Record<string, string[]>): string[] => violations(new Map(Object.entries(graph)));

describe('import direction', () => {
  it('is downward in the whole program', async () => {
    const graph = await readGraph(fileURLToPath(new URL('../../..', import.meta.url)));
    assert.ok(graph.size > 50 && [...graph.values()].flat().length > 100);
    assert.deepEqual(violations(graph), []);
  });

  it('catches an import from a layer above', () => {
    assert.deepEqual(check({ 'src/errors.ts': ['src/config.ts'], 'src/config.ts': [] }), [
      'src/errors.ts (leaves) imports src/config.ts (state), which is above it',
    ]);
    assert.deepEqual(check({ 'src/site/files.ts': ['src/job/plan.ts'], 'src/job/plan.ts': [] }), [
      'src/site/files.ts (services) imports src/job/plan.ts (flows), which is above it',
    ]);
    assert.deepEqual(check({ 'src/publish.ts': ['commands/data-prep.ts'] }), [
      'src/publish.ts (flows) imports commands/data-prep.ts (commands), which is above it',
    ]);
  });

  it('catches a circle', () => {
    assert.deepEqual(
      check({ 'src/site/a.ts': ['src/site/b.ts'], 'src/site/b.ts': ['src/site/c.ts'], 'src/site/c.ts': ['src/site/b.ts'] }),
      ['imports go in a circle: src/site/b.ts → src/site/c.ts → src/site/b.ts'],
    );
    assert.deepEqual(check({ 'src/errors.ts': ['src/errors.ts'] }), ['imports go in a circle: src/errors.ts → src/errors.ts']);
  });

  it('catches a module in no layer, and an import from outside of the program', () => {
    assert.deepEqual(check({ 'src/utils.ts': [] }), [
      'src/utils.ts belongs to no layer: name it in test/support/import-direction.ts',
    ]);
    assert.deepEqual(check({ 'src/errors.ts': ['test/support/cli.ts'] }), [
      'src/errors.ts imports test/support/cli.ts, which belongs to no layer',
    ]);
  });

  it('allows what goes down or stays in its layer', () => {
    assert.deepEqual(
      check({
        'commands/x.ts': ['src/publish.ts', 'src/errors.ts'],
        'src/publish.ts': ['src/job/plan.ts', 'src/vault.ts'],
        'src/errors.ts': [],
        'src/job/plan.ts': [],
        'src/vault.ts': [],
      }),
      [],
    );
  });

  it('reads imports of every form', () => {
    const text = `import a from './a.ts';
import { b,
  type B } from '../b.ts';
import type { C } from "./c.ts";
import './d.ts';
export { e } from './e.ts';
export * from './f.ts';
import node from 'node:fs';
const g = await import('./g.ts');
const text = "import('package')";
// import { h } from './h.ts';
`;
    const found = ['src/job/a.ts', 'src/b.ts', 'src/job/c.ts', 'src/job/d.ts', 'src/job/e.ts', 'src/job/f.ts', 'src/job/g.ts'];
    assert.deepEqual(importsOf('src/job/x.ts', text), found);
    assert.equal(layerOf('src/job/x.ts'), 'flows');
  });
});

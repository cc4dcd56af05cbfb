import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const root = new URL('../../', import.meta.url);

describe('the threat model', () => {
  it('names tests that exist', async () => {
    const text = await readFile(fileURLToPath(new URL('docs/threat-model.md', root)), 'utf8');
    const named = [...text.matchAll(/(?:\| |\()([a-z-]+): (.+?)\)? \|$/gm)];
    assert.ok(named.length > 20, `only ${named.length} tests are named`);
    for (const [, file = '', title = ''] of named) {
      const test = await readFile(fileURLToPath(new URL(`test/e2e/${file}.test.ts`, root)), 'utf8');
      const titles = [...test.matchAll(/\bit\(\s*(['"`])(.*?)\1,/gs)].map(([, , found]) => found);
      assert.ok(titles.includes(title), `test/e2e/${file}.test.ts has no test ${JSON.stringify(title)}`);
    }
  });
});

describe('the deployment', () => {
  it('says how the images are made that its compose file takes from no registry, and of what versions', async () => {
    const text = await readFile(fileURLToPath(new URL('docs/deployment.md', root)), 'utf8');
    const compose = await readFile(fileURLToPath(new URL('docker/deploy/compose.yaml', root)), 'utf8');
    const made = [...text.matchAll(/^\$ docker build .*-t (\S+)/gm)].map(([, image]) => image);
    const taken = [...compose.matchAll(/image: (?:&\S+ )?\$\{[A-Z_]+:-(\S+)\}/g)].map(([, image = '']) => image);
    assert.ok(taken.length > 4);
    for (const image of taken.filter((each) => each.startsWith('hpcs/'))) assert.ok(made.includes(image), image);
    for (const [image] of text.matchAll(/ghcr\.io\/spiffe\/[a-z-]+:[0-9.]+/g)) assert.ok(taken.includes(image), image);
  });
});

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

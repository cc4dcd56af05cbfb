import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseConfig } from '../../src/config.ts';
import { Meter } from '../../src/meter.ts';
import { connectionLost } from '../../src/site/ssh-errors.ts';
import { localToolKit, shipToolKit } from '../../src/tool-kit.ts';
import { FailingTransport } from '../support/failing-transport.ts';

const size = 3 * 1024 * 1024;

describe('tool kit', () => {
  let directory: string;
  let archive: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-kit-'));
    archive = join(directory, 'kit.tar.gz');
    await writeFile(archive, randomBytes(size));
  });
  afterEach(() => rm(directory, { recursive: true }));

  const config = (more: string) =>
    parseConfig(
      `[spire-server]\naddress = a\nport = 1\ntrust-domain = t\n[hpcs-server]\nurl = https://a\n[vault]\nurl = https://b\n[supercomputer]
address = 127.0.0.1\nusername = alice\n${more}\n[client]\ntool-kit = ${archive}\n`,
      'test.conf',
    );

  it('is shipped as data is: it goes on after a cut, keeps to the bandwidth, tells its progress, and heeds the signal', async () => {
    const limited = config('reconnect-limit = 60\nbandwidth-limit = 4M');
    let cuts = 1;
    const transport = new FailingTransport((script) => {
      const error = connectionLost('h', undefined);
      return script.includes('while read -r offset size') && cuts-- > 0 ? { error } : undefined;
    });
    const warnings: string[] = [];
    const told: string[] = [];
    let clock = 0;
    const { signal } = new AbortController();
    const context = {
      config: limited,
      transport,
      signal,
      warn: (line: string) => void warnings.push(line),
      meter: (label: string) =>
        new Meter({ label, reader: 'program', write: (text) => void told.push(text), clock: () => (clock += 1000) }),
    };
    const kit = await localToolKit(limited);
    assert.equal(kit.size, size);
    const started = performance.now();
    const path = await shipToolKit(kit, join(directory, 'site'), context);
    // The first piece may go at once; no machine is too slow for this.
    assert.ok(performance.now() - started > 600);
    assert.ok((await readFile(path)).equals(await readFile(archive)));
    assert.deepEqual(await readdir(join(directory, 'site')), [basename(path)]);
    assert.deepEqual(warnings, ['the connection to h broke; trying for 60 s to go on where it stopped']);
    assert.match(told.at(-1) ?? '', new RegExp(`"stage":"shipping the tool kit","bytes":${size},.*"total":${size}`));
    // What is left is removed in any case.
    const heeding = transport.commands.filter(({ script }) => !script.includes('exec rm'));
    assert.ok(heeding.length >= 5 && heeding.every((command) => command.signal !== undefined));

    const before = transport.commands.length;
    assert.equal(await shipToolKit(kit, join(directory, 'site'), context), path);
    assert.equal(transport.commands.length, before + 1, 'only looked for when it is there');
  });
});

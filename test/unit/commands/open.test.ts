import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as openpgp from 'openpgp';
import { tarOf } from '../../../src/pack/tar.ts';
import { generateKey, type ArtefactKey } from '../../../src/seal/keys.ts';
import { seal } from '../../../src/seal/seal.ts';
import { hpcs as hpcsProcess } from '../../support/cli.ts';
import { hpcsInProcess as hpcs } from '../../support/in-process.ts';
import { collect, inPieces } from '../../support/streams.ts';
import { onTerminal } from '../../support/terminal.ts';

const cli = fileURLToPath(new URL('../../../bin/dev.js', import.meta.url));

describe('hpcs open', function () {
  this.timeout(60_000);
  let directory: string;
  let key: ArtefactKey;
  let keyFile: string;
  let output: string;
  const content = 'confidential '.repeat(10_000);

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'open-'));
    key = await generateKey('openpgp');
    keyFile = join(directory, 'key');
    output = join(directory, 'output');
    await writeFile(keyFile, key.secretKey.reveal(), { mode: 0o600 });
  });
  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  async function sealed(plain: Uint8Array, name = 'encrypted_data.tgz'): Promise<string> {
    const bytes = await collect(seal(inPieces(plain), { format: key.format, recipients: [key.publicKey] }).bytes);
    await writeFile(join(directory, name), bytes);
    return join(directory, name);
  }

  it('unpacks an archive', async () => {
    const file = await sealed(tarOf([{ name: 'data/a b', content }]));
    const { code, stdout, stderr } = await hpcs(['open', file, '--key-file', keyFile, '--output', output]);
    assert.equal(stderr, '');
    assert.equal(stdout, `opened ${output}: 1 entries, ${content.length} bytes\n`);
    assert.equal(code, 0);
    assert.equal(await readFile(join(output, 'data/a b'), 'utf8'), content);
    const again = await hpcs(['open', file, '--key-file', keyFile, '--output', output, '--json']);
    assert.equal(again.code, 3);
    assert.match(again.stdout, /"code": "file-exists"/);
  });

  it('writes what is no archive to a file, with the key from standard input', async () => {
    const file = await sealed(Buffer.from(content), 'encrypted_prepared.sif');
    const { code, stdout } = await hpcs(['open', file, '--key-file', '-', '--output', output, '--json'], {
      input: key.secretKey.reveal(),
    });
    assert.equal(code, 0);
    assert.deepEqual(JSON.parse(stdout), { output: join(output, 'prepared.sif'), entries: 1, bytes: content.length });
    assert.equal(await readFile(join(output, 'prepared.sif'), 'utf8'), content);
    assert.deepEqual(await readdir(output), ['prepared.sif']);
  });

  it('writes to standard output', async () => {
    const archive = tarOf([{ name: 'a', content }]);
    const file = await sealed(archive);
    const { code, stdout } = await hpcsProcess(['open', file, '--key-file', keyFile, '--output', '-']);
    assert.equal(code, 0);
    assert.ok(Buffer.from(stdout).equals(archive));
    assert.equal((await hpcs(['open', file, '--key-file', keyFile, '--output', '-', '--json'])).code, 2);
  });

  it('says so where standard output takes no more', async () => {
    const file = await sealed(Buffer.from(content.repeat(30)));
    for (const [to, message] of [
      ['> /dev/full', /^hpcs: error: cannot write to standard output: ENOSPC\n {2}make room where it goes, .*\n$/],
      // A file that has room for a part of the last piece alone.
      ['> "$OUT"', /^hpcs: error: cannot write to standard output: EFBIG\n {2}send it somewhere else, .*\n$/],
      ['| head -c 5', /^hpcs: error: cannot write to standard output: EPIPE\n {2}the program that reads it ended .*\n$/],
    ] as const) {
      const { code, stderr } = await hpcsProcess(['open', file, '--key-file', keyFile, '--output', '-'], {
        through: ['bash', '-o', 'pipefail', '-c', `ulimit -f 3800; "$0" "$@" ${to}`],
        // Node would be ended by the signal of such a limit.
        env: { OUT: join(directory, 'out'), NODE_OPTIONS: '--import=data:text/javascript,process.on(`SIGXFSZ`,()=>{})' },
      });
      assert.match(stderr, message);
      assert.equal(code, 3);
    }
  });

  it('writes what can be checked only at its end to standard output when it was', async () => {
    const gpg = await generateKey('openpgp-gpg');
    const plain = 'confidential '.repeat(300_000);
    const file = join(directory, 'encrypted_data');
    const bytes = await collect(
      seal(inPieces(Buffer.from(plain)), { format: 'openpgp-gpg', recipients: [gpg.publicKey], compress: 'none' }).bytes,
    );
    await writeFile(file, bytes);
    await writeFile(keyFile, gpg.secretKey.reveal());
    const open = (to: string) => hpcsProcess(['open', file, '--key-file', keyFile, '--output', to]);
    const good = await open('-');
    assert.equal(good.code, 0, good.stderr);
    assert.ok(good.stdout === plain);
    const last = bytes.length - 10;
    bytes[last] = (bytes[last] ?? 0) ^ 1;
    await writeFile(file, bytes);
    for (const to of ['-', output]) {
      const bad = await open(to);
      assert.equal(bad.code, 7);
      assert.equal(bad.stdout, '');
      assert.match(bad.stderr, /its end does not authenticate/);
    }
    assert.deepEqual(await readdir(output).catch(() => []), []);
  });

  it('leaves nothing of what is damaged, and says so', async () => {
    for (const [name, plain] of [
      ['encrypted_a.tgz', tarOf([{ name: 'a', content }])],
      ['encrypted_b.sif', Buffer.from(content)],
    ] as const) {
      const file = await sealed(plain, name);
      const bytes = await readFile(file);
      await writeFile(file, bytes.subarray(0, bytes.length - 10));
      const { code, stdout, stderr } = await hpcs(['open', file, '--key-file', keyFile, '--output', output]);
      assert.equal(stderr, 'hpcs: error: the sealed data ends too early\n  fetch it again; the transfer may have been cut\n');
      assert.equal(stdout, '');
      assert.equal(code, 7);
      assert.deepEqual(await readdir(output).catch(() => []), []);
    }
  });

  it('refuses a key file that others may read, and one that is none', async () => {
    const file = await sealed(Buffer.from(content));
    await chmod(keyFile, 0o640);
    const open = await hpcs(['open', file, '--key-file', keyFile, '--output', output]);
    assert.equal(open.code, 2);
    assert.match(open.stderr, /is open to others \(mode 640\)\n {2}chmod 600 /);
    for (const input of ['', 'hello', 'x'.repeat(100_000)])
      assert.equal((await hpcs(['open', file, '--key-file', '-', '--output', output], { input })).code, 2);
    assert.equal((await hpcs(['open', file, '--key-file', join(directory, 'none'), '--output', output])).code, 3);
  });

  it("opens with a recipient's protected key, its passphrase from a file", async () => {
    const passphrase = 'correct horse ☃';
    const owner = await openpgp.generateKey({ userIDs: [{ name: 'Olga Owner' }], passphrase });
    const recipients = [key.publicKey, owner.publicKey];
    const file = join(directory, 'encrypted_data.bin');
    await writeFile(file, await collect(seal(inPieces(Buffer.from(content)), { format: 'openpgp', recipients }).bytes));
    await writeFile(keyFile, owner.privateKey);
    await writeFile(join(directory, 'words'), `${passphrase}\n`, { mode: 0o600 });
    const open = ['open', file, '--key', keyFile, '--output', output];
    const { code, stderr } = await hpcs([...open, '--passphrase-file', join(directory, 'words')]);
    assert.equal(code, 0, stderr);
    assert.equal(await readFile(join(output, 'data.bin'), 'utf8'), content);

    const wrong = await hpcs([...open, '--passphrase-file', '-'], { input: 'wrong\n' });
    assert.equal(wrong.code, 2);
    assert.match(wrong.stderr, /does not open with this passphrase/);
    await chmod(join(directory, 'words'), 0o644);
    assert.match((await hpcs([...open, '--passphrase-file', join(directory, 'words')])).stderr, /is open to others/);
    const twice = await hpcs(['open', file, '--key', '-', '--passphrase-file', '-', '--output', output]);
    assert.match(twice.stderr, /cannot both come from standard input/);
    // A session of its own has no terminal.
    const alone = await hpcsProcess(open, { through: ['setsid', '-w'] });
    assert.match(alone.stderr, /there is no terminal to ask for it\n {2}name a file with the passphrase/);
    assert.equal(alone.code, 2);
  });

  it('asks for a passphrase on the terminal, and does not show it', async () => {
    const owner = await openpgp.generateKey({ userIDs: [{ name: 'Olga Owner' }], passphrase: 'secret wörd' });
    const file = await sealed(Buffer.from(content));
    const recipients = [owner.publicKey];
    await writeFile(file, await collect(seal(inPieces(Buffer.from(content)), { format: 'openpgp', recipients }).bytes));
    await writeFile(keyFile, owner.privateKey);
    const command = [process.execPath, cli, 'open', file, '--key', keyFile, '--output', output].join(' ');
    // Backspace takes back one character, however many bytes it has.
    const { screen, code } = await onTerminal(command, /passphrase of .*: $/, 'secret wöx\u007F\u007Förd\r');
    assert.equal(code, 0, screen);
    assert.match(screen, /passphrase of \S+: \r\nopened /);
    // The directory's name is made at random.
    assert.doesNotMatch(screen.replaceAll(directory, ''), /secret|rd\b/);
    assert.equal(await readFile(join(output, 'data.tgz'), 'utf8'), content);
    const stopped = await onTerminal(command, /passphrase of .*: $/, 'secret\u0003');
    assert.equal(stopped.code, 130, stopped.screen);
  });

  it('asks for a key on a terminal, and shows nothing of it', async () => {
    const file = await sealed(tarOf([{ name: 'data/a b', content }]));
    const command = [process.execPath, cli, 'open', file, '--key', '-', '--output', output].join(' ');
    const typed = `${key.secretKey.reveal().replaceAll('\n', '\r')}\r\u0004`;
    const { screen, code } = await onTerminal(command, /the key, then Ctrl-D: $/, typed);
    assert.equal(code, 0, screen);
    assert.match(screen, /^the key, then Ctrl-D: \r\nopened /);
    const stopped = await onTerminal(command, /the key, then Ctrl-D: $/, '\u0003');
    assert.deepEqual([stopped.code, stopped.screen.split('\r\n').slice(1)], [130, ['hpcs: error: interrupted', '']]);
  });

  it('tells a wrong key, a missing file and a directory', async () => {
    const file = await sealed(Buffer.from(content));
    const input = (await generateKey('openpgp')).secretKey.reveal();
    assert.equal((await hpcs(['open', file, '--key-file', '-', '--output', output], { input })).code, 7);
    await mkdir(join(directory, 'd'));
    for (const name of ['none', 'd']) {
      const { code, stderr } = await hpcs(['open', join(directory, name), '--key-file', keyFile, '--output', output]);
      assert.match(stderr, /cannot read .*: E(?:NOENT|ISDIR)\n/);
      assert.equal(code, 3);
    }
  });
});

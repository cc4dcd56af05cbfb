import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { z } from 'zod';
import { parseConfig } from '../../src/config.ts';
import { readRecords, stateDirectory, writeDurably } from '../../src/state.ts';

const mode = async (path: string): Promise<number> => (await stat(path)).mode & 0o777;

describe('state', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-state-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  describe('directory', () => {
    const config = () => ({
      client: { 'state-directory': join(directory, 'configured'), recipient: [], 'allow-insecure-http': false },
    });

    it('is that of HPCS_STATE_DIR, then of the configuration, then of XDG, then of the home', async () => {
      const env = {
        HPCS_STATE_DIR: join(directory, 'env'),
        XDG_STATE_HOME: join(directory, 'xdg'),
        HOME: join(directory, 'home'),
      };
      assert.equal(await stateDirectory(config(), env), join(directory, 'env'));
      assert.equal(await stateDirectory(config(), { ...env, HPCS_STATE_DIR: '' }), join(directory, 'configured'));
      assert.equal(await stateDirectory(undefined, { ...env, HPCS_STATE_DIR: undefined }), join(directory, 'xdg/hpcs'));
      assert.equal(await stateDirectory(undefined, { HOME: env.HOME }), join(directory, 'home/.local/state/hpcs'));
      assert.equal(await stateDirectory(undefined, { ...env, HPCS_STATE_DIR: '~/keys' }), join(directory, 'home/keys'));
    });

    it('is refused where it cannot be made, at once', async () => {
      await assert.rejects(stateDirectory(undefined, { HPCS_STATE_DIR: '/proc/hpcs/state' }), { code: 'state-unwritable' });
    });

    it('is made with mode 0700, whatever the umask', async () => {
      const old = process.umask(0);
      try {
        assert.equal(await mode(await stateDirectory(undefined, { HPCS_STATE_DIR: join(directory, 'a/b') })), 0o700);
      } finally {
        process.umask(old);
      }
    });

    it('is an absolute path also where it was given relative to here', async () => {
      const given = relative(process.cwd(), join(directory, 'a'));
      assert.equal(await stateDirectory(undefined, { HPCS_STATE_DIR: given }), join(directory, 'a'));
    });

    it('keeps the mode of one that was there', async () => {
      await chmod(directory, 0o755);
      await stateDirectory(undefined, { HPCS_STATE_DIR: directory });
      assert.equal(await mode(directory), 0o755);
    });

    it('is refused where others can write, and left as it is', async () => {
      for (const bits of [0o777, 0o1777, 0o770]) {
        await chmod(directory, bits);
        await assert.rejects(stateDirectory(undefined, { HPCS_STATE_DIR: directory }), { code: 'state-shared', exitCode: 3 });
        assert.equal((await stat(directory)).mode & 0o7777, bits);
      }
    });

    it('is refused where it cannot be', async () => {
      await writeFile(join(directory, 'file'), '');
      for (const path of ['file', 'file/below']) {
        await assert.rejects(stateDirectory(undefined, { HPCS_STATE_DIR: join(directory, path) }), (error: Error) => {
          assert.match(error.message, new RegExp(`^cannot use the state directory ${directory}/${path}: E(EXIST|NOTDIR)$`));
          assert.deepEqual(Reflect.get(error, 'code'), 'state-unwritable');
          return true;
        });
      }
    });

    it('is the one that a configuration file names', async () => {
      const text = `[spire-server]\naddress=a\nport=1\ntrust-domain=a\n[hpcs-server]\nurl=https://a\n[vault]\nurl=https://a\n[supercomputer]\naddress=a\nusername=a\n[client]\nstate-directory = "${directory}/from file"\n`;
      assert.equal(await stateDirectory(parseConfig(text, 'x'), {}), `${directory}/from file`);
    });
  });

  describe('file', () => {
    it('is written with mode 0600 in a directory of mode 0700, and leaves no other', async () => {
      const old = process.umask(0);
      try {
        await writeDurably(join(directory, 'jobs/a.json'), 'one');
        await writeDurably(join(directory, 'jobs/a.json'), 'two');
      } finally {
        process.umask(old);
      }
      assert.equal(await readFile(join(directory, 'jobs/a.json'), 'utf8'), 'two');
      assert.equal(await mode(join(directory, 'jobs/a.json')), 0o600);
      assert.equal(await mode(join(directory, 'jobs')), 0o700);
      assert.deepEqual(await readdir(join(directory, 'jobs')), ['a.json']);
    });

    it('takes the place of a link, and leaves alone what the link names', async () => {
      await writeFile(join(directory, 'victim'), 'old');
      await symlink('victim', join(directory, 'a.json'));
      await writeDurably(join(directory, 'a.json'), 'secret');
      assert.equal(await readFile(join(directory, 'victim'), 'utf8'), 'old');
    });

    it('leaves nothing behind when it cannot be written', async () => {
      await mkdir(join(directory, 'a.json/below'), { recursive: true });
      await assert.rejects(writeDurably(join(directory, 'a.json'), 'secret'), {
        code: 'write-failed',
        exitCode: 3,
        message: /^cannot write .*a\.json: E/,
      });
      assert.deepEqual(await readdir(directory), ['a.json']);
    });
  });

  describe('records', () => {
    const schema = z.object({ version: z.literal(1) });

    it('are those of the directory that fit', async () => {
      await writeFile(join(directory, 'a.json'), '{"version": 1}');
      await writeFile(join(directory, 'b.json'), '{"version": 2}');
      await writeFile(join(directory, 'c.json.0123.tmp'), '{"vers');
      assert.deepEqual(await readRecords(directory, schema), [{ version: 1 }]);
    });

    it('are none where there is no directory yet', async () => {
      assert.deepEqual(await readRecords(join(directory, 'none'), schema), []);
    });

    it('are not silently fewer when one is damaged, and the error does not show what is in it', async () => {
      await writeFile(join(directory, 'a.json'), '{"key": "AGE-SECRET-KEY-1');
      await assert.rejects(readRecords(directory, schema), (error: Error) => {
        assert.equal(Reflect.get(error, 'code'), 'state-unreadable');
        assert.equal(error.message, `${directory}/a.json is damaged: it holds no JSON`);
        assert.ok(!JSON.stringify(error, Object.getOwnPropertyNames(error)).includes('AGE-SECRET'));
        return true;
      });
    });

    it('are not taken for none when they cannot be read', async () => {
      await writeFile(join(directory, 'file'), '');
      await assert.rejects(readRecords(join(directory, 'file'), schema), {
        code: 'state-unreadable',
        message: `cannot read ${directory}/file: ENOTDIR`,
      });
    });
  });
});

// One stage of ours as a process of its own, without the services: what sealing, shipping and opening cost.
//   ours.mjs send CONFIGURATION SOURCE TARGET FORMAT KEY-FILE COMPRESSION      (writes the secret key to KEY-FILE)
//   ours.mjs open SEALED KEY-FILE DIRECTORY
// Runs the built modules, as an installed client does.
import { writeFile } from 'node:fs/promises';
import { posix } from 'node:path';
import { parseArgs } from 'node:util';

const { keepCompiledCode } = await import(new URL('../../dist/src/compile-cache.js', import.meta.url).href);
keepCompiledCode();
await import(new URL('../../dist/src/heap.js', import.meta.url).href);
const {
  positionals: [mode, ...args],
} = parseArgs({ allowPositionals: true });
const built = (module) => import(new URL(`../../dist/src/${module}.js`, import.meta.url).href);

if (mode === 'send') {
  const [configuration, source, target, format, keyFile, compression] = args;
  // As data-prep does: the threads come up while the rest is loaded.
  const { Sealing, startEarly } = await built('seal/threads');
  startEarly();
  const [{ loadConfig }, { scan }, { compressionOf }, { connect }, { startUpload }] = await Promise.all(
    ['config', 'pack/pack', 'seal/format', 'site/connect', 'site/upload'].map(built),
  );
  const config = await loadConfig(configuration);
  // As publishing does: the connection is made while the key is, the input is looked through, and sealing begins.
  const connecting = connect(config);
  const starting = Sealing.startWithNewKey(
    { path: source },
    { format, recipients: [], compress: compressionOf(compression, format) },
  );
  const scanned = scan(source);
  const { key, sealing: started } = await starting;
  await using sealing = started;
  await writeFile(keyFile, key.secretKey.reveal(), { mode: 0o600 });
  await using transport = await connecting;
  await using upload = await startUpload(transport, target, sealing, {
    mode: 0o640,
    patience: 300,
    memory: sealing,
  });
  await scanned;
  const { sha512 } = await sealing.summary;
  await upload.publish();
  console.log(sha512, posix.basename(target));
} else {
  const [sealed, keyFile, directory] = args;
  const [{ readKey }, { readBytes }, { open }, { unpack }, { digestingAside }] = await Promise.all(
    ['secret-input', 'seal/files', 'seal/open', 'pack/unpack', 'seal/threads'].map(built),
  );
  const key = await readKey(keyFile, new AbortController().signal);
  await using bytes = digestingAside(readBytes(sealed));
  await unpack(open(bytes.bytes, key), directory, {});
  console.log((await bytes.summary).sha512);
}

import { syncBuiltinESMExports } from 'node:module';

/**
 * Puts another function in the place of one of Node's own, for every module of this process, until disposed of.
 *
 * @param module what `import … from 'node:…'` names by default
 */
export function inPlaceOf<Module extends object, Name extends keyof Module>(
  module: Module,
  name: Name,
  other: Module[Name],
): Disposable {
  const original = module[name];
  const put = (value: Module[Name]): void => {
    module[name] = value;
    syncBuiltinESMExports();
  };
  put(other);
  return { [Symbol.dispose]: () => put(original) };
}

/** How a test starts a program of this workspace: the built one from a built test, the source from a test that tsx runs. */
import { fileURLToPath } from 'node:url'

/** Node's options for a program that imports packages of this workspace. `from` is the `import.meta.url` of the caller. */
export function nodeOptions(from: string): readonly string[] {
  return from.endsWith('.ts') ? ['--import', 'tsx', '--conditions', 'lease-source'] : []
}

/** Node's options and the file of a program. `name` is its source relative to the caller, whose `import.meta.url` is `from`. */
export function programOf(name: string, from: string): readonly string[] {
  const built = name.replace('/src/', '/dist/').replace(/\.ts$/, '.js')
  return [...nodeOptions(from), fileURLToPath(new URL(from.endsWith('.ts') ? name : built, from))]
}

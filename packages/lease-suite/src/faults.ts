/**
 * The faults of `npx -y pnpm@10 mutants`: small changes of the sources. Each breaks a sentence of the documentation. They stand
 * in `mutants/<package>.md`, under the sentence that they break:
 *
 *     ## A sentence, word for word
 *     [where it stands](../../../docs/guarantees.md)
 *     - `packages/lease-core/test/one.test.ts`     ← the tests that notice, the likeliest first
 *
 *     ### What the fault does
 *     Without effect: why no test can notice it.   ← only then
 *     ```diff
 *     @@ packages/lease-core/src/one.ts
 *     -whole lines, found exactly once
 *     +what replaces them
 *     ```
 */
import { readFileSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { root } from './test-files.ts'

/** The packages that have a list of faults, by the names that `--package` takes. */
export const PACKAGES = [
  'core',
  'recipes',
  'redis',
  'postgres',
  'etcd',
  'dynamodb',
  'cli',
  'otel',
  'nestjs',
  'console',
] as const
export type Package = (typeof PACKAGES)[number]

export interface Fault {
  readonly package: Package
  /** What it does; no other fault of the package has this name. */
  readonly name: string
  /** The sentence that it breaks, word for word. */
  readonly sentence: string
  /** The page, or the source, with the sentence; from the workspace's folder. */
  readonly page: string
  /** The test files that notice it, the likeliest first; from the workspace's folder. */
  readonly tests: readonly string[]
  readonly edits: readonly Edit[]
  /** Why no test can notice it, where none can. */
  readonly harmless: string | undefined
}

export interface Edit {
  /** From the workspace's folder. */
  readonly file: string
  /** Whole lines of it. */
  readonly from: string
  /** What stands there instead; undefined: nothing. */
  readonly to: string | undefined
}

/** All faults of a package. @throws when its list is not written as described above */
export function faultsOf(name: Package): readonly Fault[] {
  const list = `packages/lease-suite/mutants/${name}.md`
  return readFaults(name, list, readFileSync(join(root, list), 'utf8'))
}

/** The sources with the fault in them, by file. @throws {@link StaleFault} when its lines are not found exactly once */
export function withFault(fault: Fault, sourceOf: (file: string) => string): ReadonlyMap<string, string> {
  const changed = new Map<string, string>()
  for (const { file, from, to } of fault.edits) {
    const source = `\n${changed.get(file) ?? sourceOf(file)}`
    const parts = source.split(`\n${from}\n`)
    if (parts.length !== 2) {
      throw new StaleFault(`its lines are found ${parts.length - 1} times in ${file}, not once: ${from.trim()}`)
    }
    changed.set(file, parts.join(to === undefined ? '\n' : `\n${to}\n`).slice(1))
  }
  return changed
}

/** The sources have changed since the fault was written. */
export class StaleFault extends Error {}

/** Reads a list. @param list where it stands, from the workspace's folder */
export function readFaults(name: Package, list: string, text: string): readonly Fault[] {
  const faults: Fault[] = []
  for (const section of text.split(/^## /m).slice(1)) {
    const [head = '', ...parts] = section.split(/^### /m)
    const [sentence = ''] = head.split('\n')
    const link = /^\[[^\]]+\]\(([^)#]+)[^)]*\)$/m.exec(head)?.[1]
    if (link === undefined) throw new Error(`${list} does not say where this sentence stands: ${sentence}`)
    const page = relative(root, resolve(root, list, '..', link))
    for (const part of parts) {
      const [title = ''] = part.split('\n')
      const [words = '', diff = ''] = part.split(/^```diff\n/m)
      const own = testsIn(words)
      const tests = own.length > 0 ? own : testsIn(head)
      const edits = editsIn(diff.split(/^```$/m)[0] ?? '')
      const harmless = /^Without effect: (.+)$/m.exec(words)?.[1]
      if (faults.some((other) => other.name === title)) throw new Error(`${list} has two faults called ${title}`)
      if (edits.length === 0) throw new Error(`${list} does not say what to change: ${title}`)
      if (tests.length === 0 && harmless === undefined)
        throw new Error(`${list} does not say which tests notice: ${title}`)
      faults.push({ package: name, name: title, sentence, page, tests, edits, harmless })
    }
  }
  return faults
}

function testsIn(text: string): readonly string[] {
  return [...text.matchAll(/^- `([^`]+)`$/gm)].map(([, path = '']) => path)
}

function editsIn(diff: string): readonly Edit[] {
  return diff
    .split(/^@@ /m)
    .slice(1)
    .map((part) => {
      const [file = '', ...lines] = part.replace(/\n$/, '').split('\n')
      const side = (sign: '-' | '+'): readonly string[] =>
        lines
          .filter((line) => line === '' || line.startsWith(' ') || line.startsWith(sign))
          .map((line) => line.slice(1))
      const [from, to] = [side('-'), side('+')]
      return { file, from: from.join('\n'), to: to.length === 0 ? undefined : to.join('\n') }
    })
    .filter(({ from, to }) => from !== to && from !== '')
}

/** Which test files there are, what of them a run takes, and how long each took the last time that was recorded. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import type { Part } from './protocol.ts'

/** The folder of the workspace; every path below is relative to it. */
export const root: string = resolve(import.meta.dirname, '../../..')

/** A test file, or some of its top-level suites. */
export interface TestFile {
  /** The source, from the workspace's folder. */
  readonly path: string
  /** What is run. */
  readonly built: string
  readonly part: Part | undefined
  /** For people: the path, and which part of how many. */
  readonly title: string
  readonly expectedMs: number
  /** Top-level suites to leave out. */
  readonly exclude: RegExp | undefined
  /** The Node that runs it, where it is not ours. */
  readonly execPath?: string | undefined
}

const recorded = join(root, 'packages/lease-suite/durations.json')
/** What counts for a file that was never recorded: early rather than late. */
const UNKNOWN_MS = 10_000
/** A file that takes longer is run in parts, side by side: its top-level suites. */
const LONG_MS = 40_000

/** All test files of the workspace, those that take longest first, and long ones in parts. */
export function allTests(): readonly TestFile[] {
  const folders = [...readdirSync(join(root, 'packages')).map((name) => `packages/${name}/test`), 'docs/examples']
  const files = folders.filter((folder) => existsSync(join(root, folder))).flatMap(testsIn)
  return inParts(files)
}

const core = /^packages\/lease-core\/test\/(?!conformance\.(broken|real-time))/
const recipes = /^packages\/lease-recipes\/test\/(?!.*\.(race|crowd)\.)/
const sqlite = /^docs\/examples\/sqlite\./
const adapters = /^packages\/lease-(postgres|redis|etcd|dynamodb)\/test\/(conformance|options)\./
/** Titles of suites on a server, and of those on a second server of one kind. */
const onServer = / (on|in|of) (redis|postgres|etcd|dynamodb)/i
const onSecond = /postgres 15|pgbouncer|Cluster|three nodes/

/** What the daily loop needs: core, the recipes on memory, and the contract on one store of each kind. */
export function quickTests(): readonly TestFile[] {
  const chosen = allTests().map((file) => ({ ...file, exclude: recipes.test(file.path) ? onServer : onSecond }))
  return chosen.filter(({ path }) => [core, recipes, adapters].some((pattern) => pattern.test(path)))
}

/** What needs no server, on another Node: core, the recipes on memory, and the adapter for SQLite, with the driver of that Node. */
export function testsOn(version: string, execPath: string): readonly TestFile[] {
  return allTests()
    .filter(
      ({ path, part }) => core.test(path) || sqlite.test(path) || (recipes.test(path) && (part?.index ?? 0) === 0),
    )
    .map((file) => ({ ...onMemory(file), execPath, title: `${file.title} on Node ${version}` }))
}

/** These files, whole. @throws when one is not a test file of the workspace */
export function namedTests(paths: readonly string[]): readonly TestFile[] {
  const all = [...new Set(allTests().map(({ path }) => path))]
  const named = paths.flatMap((given) => {
    const path = relative(root, resolve(given))
    const found = all.filter((one) => one === path || one.startsWith(`${path}/`))
    if (found.length > 0) return found
    throw new Error(`${given} is no test file, and no folder with test files, of this workspace`)
  })
  return [...new Set(named)].map(whole)
}

/** Without the suites on servers, where the others say the same on memory. */
export function onMemory(file: TestFile): TestFile {
  return { ...file, exclude: onServer }
}

/** Notes how long the top-level suites of each file took, for the order of later runs. */
export function record(took: ReadonlyMap<string, readonly number[]>): void {
  const all = Object.fromEntries([...took].toSorted(([a], [b]) => (a < b ? -1 : 1)))
  writeFileSync(recorded, `${JSON.stringify(all, undefined, 1).replaceAll(/\n +(?=\d|\])/g, ' ')}\n`)
}

function testsIn(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`
    if (!entry.isDirectory()) return entry.name.endsWith('.test.ts') ? [path] : []
    return entry.name === 'node_modules' || entry.name === '.test-js' ? [] : testsIn(path) // hundreds of packages, in a chain of links
  })
}

function whole(path: string): TestFile {
  return { path, built: builtOf(path), part: undefined, title: path, expectedMs: UNKNOWN_MS, exclude: undefined }
}

function inParts(paths: readonly string[]): TestFile[] {
  const durations = JSON.parse(existsSync(recorded) ? readFileSync(recorded, 'utf8') : '{}') as Record<string, number[]>
  const files = paths.flatMap((path) => {
    const suites = durations[path]
    const totalMs = suites?.reduce((sum, ms) => sum + ms, 0) ?? UNKNOWN_MS
    if (suites === undefined || suites.length < 2 || totalMs < LONG_MS) return { ...whole(path), expectedMs: totalMs }
    return suites.map((expectedMs, index) => ({
      ...whole(path),
      part: { index, last: index === suites.length - 1 },
      title: `${path} (${index + 1} of ${suites.length})`,
      expectedMs,
    }))
  })
  return files.toSorted((a, b) => b.expectedMs - a.expectedMs)
}

function builtOf(path: string): string {
  const at = path.includes('/test/')
    ? path.replace('/test/', '/.test-js/')
    : path.replace('docs/examples/', 'docs/examples/.test-js/')
  return join(root, at.replace(/\.ts$/, '.js'))
}

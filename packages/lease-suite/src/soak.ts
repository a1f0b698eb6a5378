/** Runs tests again and again beside busy loops, and counts what fails: a test that needs a fast machine is found so. */
import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { failedTitles, seconds, totals } from './report.ts'
import type { SuiteResult } from './suite.ts'
import { root } from './test-files.ts'

export interface SoakOptions {
  readonly times: number
  /** How many busy loops run beside it. */
  readonly busy: number
  /** Forgets the runs of an interrupted soak. */
  readonly fresh: boolean
  /** What is soaked; another subject, or another state of the sources, begins anew. */
  readonly subject: string
  /** Where every run is written in the end. */
  readonly json?: string | undefined
  run(): Promise<SuiteResult>
}

interface Run {
  readonly ms: number
  readonly passed: number
  readonly failed: readonly string[]
}

interface State {
  readonly key: string
  readonly runs: Run[]
}

const folder = join(root, 'node_modules/.cache/lease-suite')

/** Resolves to whether every run was green. What was run before an interruption counts, if nothing has changed since. */
export async function soak(options: SoakOptions): Promise<boolean> {
  const subject = hashOf(process.version, options.subject, String(options.times))
  const key = hashOf(subject, sources())
  const file = join(folder, `soak.${subject}.json`)
  const { runs } = options.fresh ? { runs: new Array<Run>() } : resumed(file, key)
  if (runs.length > 0) console.log(`goes on after ${runs.length} of ${options.times} runs`)
  const quiet = busyLoops(options.busy)
  try {
    while (runs.length < options.times) {
      const result = await options.run()
      const run = { ms: Math.round(result.ms), passed: totals(result).passed, failed: failedTitles(result) }
      runs.push(run)
      mkdirSync(folder, { recursive: true })
      writeFileSync(`${file}.new`, JSON.stringify({ key, runs } satisfies State))
      renameSync(`${file}.new`, file)
      const words = run.failed.length === 0 ? 'green' : `${run.failed.length} failed`
      console.log(`run ${runs.length} of ${options.times}: ${words}, ${run.passed} passed, ${seconds(run.ms).trim()}`)
      for (const title of run.failed) console.log(`  ${title}`)
    }
  } finally {
    quiet()
  }
  rmSync(file, { force: true }) // the next soak begins anew
  summarize(runs)
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(runs, undefined, 2)}\n`)
  return runs.every(({ failed }) => failed.length === 0)
}

function summarize(runs: readonly Run[]): void {
  const counts = new Map<string, number>()
  for (const title of runs.flatMap(({ failed }) => failed)) counts.set(title, (counts.get(title) ?? 0) + 1)
  console.log('')
  for (const [title, count] of [...counts].toSorted(([, a], [, b]) => b - a)) {
    console.log(`failed in ${count} of ${runs.length} runs: ${title}`)
  }
  const times = runs.map(({ ms }) => ms).toSorted((a, b) => a - b)
  const [min = 0, median = 0, max = 0] = [times[0], times[Math.floor(times.length / 2)], times.at(-1)]
  console.log(`a run took ${seconds(min).trim()} to ${seconds(max).trim()}, median ${seconds(median).trim()}`)
  const green = runs.filter(({ failed }) => failed.length === 0).length
  console.log(`${green} passed, ${runs.length - green} failed`)
}

function resumed(file: string, key: string): State {
  const state = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as State) : undefined
  return state?.key === key ? state : { key, runs: [] }
}

function hashOf(...parts: readonly string[]): string {
  return createHash('sha256').update(parts.join('\0')).digest('hex').slice(0, 24)
}

/** What tells one state of the sources from another, new files included; empty where there is no git. */
function sources(): string {
  const git = (...args: string[]): string =>
    execFileSync('git', args, { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 28 })
  try {
    const added = git('ls-files', '--others', '--exclude-standard', '-z').split('\0').filter(Boolean)
    const contents = added.map((name) => readFileSync(join(root, name), 'base64'))
    return hashOf(git('rev-parse', 'HEAD'), git('diff', 'HEAD'), ...added, ...contents)
  } catch {
    return ''
  }
}

/** Starts so many; they end with this process, or when the returned function is called. */
function busyLoops(count: number): () => void {
  const loop = 'while kill -0 "$1" 2>/dev/null; do :; done'
  const loops = Array.from({ length: count }, () =>
    spawn('/bin/sh', ['-c', loop, 'busy', String(process.pid)], { stdio: 'ignore' }),
  )
  return () => {
    for (const one of loops) one.kill('SIGKILL')
  }
}

/** Tries faults: puts each into a copy of the workspace and runs the tests that ought to notice it. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { setMaxListeners } from 'node:events'
import { availableParallelism } from 'node:os'
import { promisify } from 'node:util'
import { Servers } from 'lease-servers'
import { build } from './checks.ts'
import { type Fault, faultsOf, type Package, PACKAGES, StaleFault, withFault } from './faults.ts'
import { type FileResult, runFile } from './file-run.ts'
import { inLanes } from './lanes.ts'
import { rewriteRecord } from './record.ts'
import { seconds } from './report.ts'
import { knownServers } from './suite.ts'
import { namedTests, onMemory, root, type TestFile } from './test-files.ts'
import { TreeCopy } from './tree-copy.ts'

/** Which faults a run tries. */
export interface Choice {
  readonly packages: readonly Package[]
  /** Only faults with these words in their names. */
  readonly only?: string | undefined
  /** Only faults in sources that differ from this commit. */
  readonly changedSince?: string | undefined
}

/**
 * What became of a fault. *Noticed*: a test failed, or did not end. *Survived*: all tests passed. *Stale*: it cannot be put into the
 * sources of today. *Without effect*: not tried, for the reason that stands beside it.
 */
export interface Trial {
  readonly fault: Fault
  readonly outcome: 'noticed' | 'survived' | 'stale' | 'without effect'
  /** The test that noticed; or why it is stale, or without effect. */
  readonly detail: string
  readonly ms: number
}

export interface MutantsOptions {
  /** How many faults are tried at a time. @default one per core */
  readonly jobs?: number | undefined
  /** Ends the run. */
  readonly signal: AbortSignal
  readonly onDone: (trial: Trial) => void
}

/** What was asked for does not exist, or cannot be had: nothing was learned about any fault. */
export class BadInput extends Error {}

/** A fault that makes tests wait without end is noticed after so many times the time that they take without a fault. */
const PATIENCE = 10
const LEAST_PATIENCE_MS = 60_000

/** @throws {@link BadInput} when nothing is chosen */
export async function chosenFaults({ packages, only, changedSince }: Choice): Promise<readonly Fault[]> {
  const all = packages.flatMap(faultsOf)
  const named = only === undefined ? all : all.filter(({ name }) => name.toLowerCase().includes(only.toLowerCase()))
  if (named.length === 0) throw new BadInput(`no fault of ${packages.join(', ')} has "${only}" in its name`)
  if (changedSince === undefined) return named
  const changed = await changedFiles(changedSince)
  return named.filter(({ edits }) => edits.some(({ file }) => changed.has(file)))
}

/** Tries them one after the other, or several side by side. @throws {@link BadInput} when tests fail without a fault */
export async function tryFaults(faults: readonly Fault[], options: MutantsOptions): Promise<readonly Trial[]> {
  const { jobs = availableParallelism(), onDone } = options
  const trials: Trial[] = []
  const done = (trial: Trial): void => {
    trials.push(trial)
    onDone(trial)
  }
  const tried = faults.filter((fault) => {
    if (fault.harmless !== undefined) done({ fault, outcome: 'without effect', detail: fault.harmless, ms: 0 })
    return fault.harmless === undefined
  })
  if (tried.length === 0) return trials
  const ending = new AbortController()
  const signal = AbortSignal.any([options.signal, ending.signal])
  setMaxListeners(0, signal)
  knownServers()
  const servers = new Servers()
  const copies: TreeCopy[] = []
  try {
    const { wrong } = await build(signal)
    if (wrong !== undefined) throw new BadInput(`the sources do not compile:\n${wrong}`)
    const free: TreeCopy[] = []
    const tests = new TestRuns(servers, signal)
    const lanes = Math.min(jobs, tried.length)
    for (let made = 0; made < lanes; made++) {
      signal.throwIfAborted()
      const copy = await TreeCopy.make()
      copies.push(copy)
      free.push(copy)
    }
    await inLanes(
      { least: lanes, most: lanes },
      tried.map((fault) => async () => {
        signal.throwIfAborted()
        const copy = free.pop()
        if (copy === undefined) throw new Error('more faults at a time than copies')
        const trial = await tests.try(fault, copy)
        free.push(copy)
        signal.throwIfAborted()
        done(trial)
      }),
    )
    return trials
  } finally {
    ending.abort()
    await servers.stop()
    for (const copy of copies) await copy[Symbol.asyncDispose]()
  }
}

/** Runs of test files in copies of the workspace. */
class TestRuns {
  readonly #servers: Servers
  readonly #signal: AbortSignal
  /** How long each test file may take, once it has passed without a fault. */
  readonly #limits = new Map<string, Promise<number>>()

  constructor(servers: Servers, signal: AbortSignal) {
    this.#servers = servers
    this.#signal = signal
  }

  async try(fault: Fault, copy: TreeCopy): Promise<Trial> {
    const startedMs = performance.now()
    const trial = (outcome: Trial['outcome'], detail: string): Trial => {
      return { fault, outcome, detail, ms: performance.now() - startedMs }
    }
    try {
      const sources = withFault(fault, (file) => readFileSync(join(root, file), 'utf8'))
      for (const file of testsOf(fault)) {
        const limitMs = await this.#limitOf(file, copy)
        await copy.put(sources)
        const failure = await this.#failureOf(file, copy, limitMs)
        await copy.restore()
        if (failure !== undefined) return trial('noticed', `${file.path}: ${failure}`)
      }
      return trial('survived', `by ${fault.tests.join(', ')}`)
    } catch (error) {
      if (error instanceof StaleFault || error instanceof SyntaxError) return trial('stale', error.message)
      throw error
    }
  }

  async #limitOf(file: TestFile, copy: TreeCopy): Promise<number> {
    const known = this.#limits.get(file.path)
    if (known !== undefined) return await known
    const measured = this.#measure(file, copy)
    this.#limits.set(file.path, measured)
    return await measured
  }

  async #measure(file: TestFile, copy: TreeCopy): Promise<number> {
    const { outcomes, ms } = await this.#run(file, copy, this.#signal)
    this.#signal.throwIfAborted()
    const failed = outcomes.find(({ state }) => state === 'failed')
    if (failed !== undefined) {
      throw new BadInput(`${file.path} fails without a fault: ${failed.path.join(' › ')}\n${failed.failure}`)
    }
    if (outcomes.length === 0) throw new BadInput(`${file.path} has no tests`)
    return Math.ceil(Math.max(LEAST_PATIENCE_MS, ms * PATIENCE))
  }

  async #failureOf(file: TestFile, copy: TreeCopy, limitMs: number): Promise<string | undefined> {
    const limit = AbortSignal.timeout(limitMs)
    const { outcomes } = await this.#run(file, copy, AbortSignal.any([this.#signal, limit]))
    this.#signal.throwIfAborted()
    const failed = outcomes.find(({ state }) => state === 'failed')
    if (failed !== undefined) return failed.path.join(' › ')
    return limit.aborted ? 'it does not end' : undefined
  }

  async #run(file: TestFile, copy: TreeCopy, signal: AbortSignal): Promise<FileResult> {
    const targets = async (wanted: readonly string[]): Promise<string> => {
      if (file.exclude !== undefined) return '{}' // its suites on servers do not run
      try {
        return await this.#servers.targets(wanted)
      } catch (cause) {
        throw new BadInput((cause as Error).message, { cause })
      }
    }
    const built = join(copy.folder, relative(root, file.built))
    const options = { folder: copy.folder, timeoutMs: LEAST_PATIENCE_MS, bail: true, targets, signal }
    return await runFile({ ...file, built }, options)
  }
}

/** Faults of core and of recipes need no server. */
function testsOf({ package: name, tests }: Fault): readonly TestFile[] {
  let files: readonly TestFile[]
  try {
    files = tests.flatMap((path) => namedTests([path]))
  } catch (cause) {
    throw new StaleFault((cause as Error).message, { cause })
  }
  return name === 'core' || name === 'recipes' ? files.map(onMemory) : files
}

async function changedFiles(commit: string): Promise<ReadonlySet<string>> {
  const git = async (...args: string[]): Promise<string> =>
    (await promisify(execFile)('git', args, { cwd: root })).stdout
  try {
    await git('rev-parse', '--verify', '--quiet', '--end-of-options', `${commit}^{commit}`)
  } catch (cause) {
    throw new BadInput(`${commit} is no commit of this repository`, { cause })
  }
  const files = await git('diff', '--name-only', commit, '--')
  return new Set(files.split('\n'))
}

/** How many faults of a package had each outcome. */
interface Score {
  readonly package: Package
  readonly tried: number
  readonly noticed: number
  readonly survived: number
  readonly stale: number
  readonly withoutEffect: number
}

function scoresOf(trials: readonly Trial[]): readonly Score[] {
  const of = (name: Package): readonly Trial[] => trials.filter(({ fault }) => fault.package === name)
  return PACKAGES.filter((name) => of(name).length > 0).map((name) => {
    const count = (wanted: Trial['outcome']): number => of(name).filter(({ outcome }) => outcome === wanted).length
    const [noticed, survived, stale] = [count('noticed'), count('survived'), count('stale')]
    return {
      package: name,
      tried: noticed + survived,
      noticed,
      survived,
      stale,
      withoutEffect: count('without effect'),
    }
  })
}

/** A line for each fault when it was tried. */
export function printTrial({ fault, outcome, detail, ms }: Trial, place: string): void {
  const good = outcome === 'noticed' || outcome === 'without effect'
  const words = outcome === 'noticed' ? `noticed by ${detail}` : `${outcome.toUpperCase()}: ${detail}`
  console.log(`${good ? '✔' : '✖'} ${seconds(ms)}  ${place} ${fault.package}: ${fault.name}\n             ${words}`)
}

/** The table at the end. */
export function printScores(trials: readonly Trial[]): void {
  for (const wanted of ['survived', 'stale'] as const) {
    const some = trials.filter(({ outcome }) => outcome === wanted)
    if (some.length > 0) console.log(`\n${wanted}:`)
    for (const { fault, detail } of some) console.log(`  ${fault.package}: ${fault.name}\n      ${detail}`)
  }
  console.log('')
  console.table(Object.fromEntries(scoresOf(trials).map(({ package: name, ...score }) => [name, score])))
}

/** Keeps the scores of these packages in docs/reliability.md, beside those of the others. */
export function recordScores(trials: readonly Trial[]): void {
  const day = new Date().toISOString().slice(0, 10)
  const rows = new Map(
    scoresOf(trials).map((score) => [
      score.package,
      `| ${score.package} | ${day} | ${score.tried} | ${score.noticed} | ${score.survived} | ${score.withoutEffect} |`,
    ]),
  )
  rewriteRecord('mutants', (before) => [
    '| package | day | faults tried | noticed | survived | without effect |',
    '|---|---|---|---|---|---|',
    ...PACKAGES.flatMap((name) => rows.get(name) ?? before.filter((line) => line.startsWith(`| ${name} |`))),
  ])
}

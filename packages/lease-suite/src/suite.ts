/**
 * One run: servers, build and the checks that need no build start together; then the other checks and the test files run side by side, those
 * that take longest first, in as many processes as run at a time. Everything is stopped when the run ends, however it ends.
 */
import { setMaxListeners } from 'node:events'
import { dynamodbTarget, etcdTargets, pgbouncerTarget, postgresTargets, redisTargets, Servers } from 'lease-servers'
import { build, type Check, type CheckResult, timed } from './checks.ts'
import { type FileResult, TestProcesses } from './file-run.ts'
import { inLanes, usualLanes } from './lanes.ts'
import type { TestFile } from './test-files.ts'

export interface SuiteOptions {
  readonly files: readonly TestFile[]
  readonly checks: readonly Check[]
  readonly grep?: RegExp | undefined
  /** Starts all servers at once instead of each when the first file needs it. */
  readonly allServers: boolean
  /** How many processes run at a time. @default two per core, and up to four per core while the cores idle */
  readonly jobs?: number | undefined
  /** How long a test or hook may take. @default {@link TIMEOUT_MS} */
  readonly timeoutMs?: number | undefined
  /** Ends the run. */
  readonly signal: AbortSignal
  /** Hears of every check and file that is done. */
  readonly onDone?: (done: CheckResult | FileResult) => void
}

export interface SuiteResult {
  readonly ms: number
  /** Until every server that was started at once was ready; they start beside the build. */
  readonly serversMs: number
  readonly checks: readonly CheckResult[]
  readonly files: readonly FileResult[]
}

/** How long a test or hook may take. The only limit there is: on an idle machine most need a thousandth of it. */
export const TIMEOUT_MS = 180_000

/** @throws when a server cannot be had, or the signal's reason */
export async function runSuite(options: SuiteOptions): Promise<SuiteResult> {
  const startedMs = performance.now()
  const names = knownServers()
  const servers = new Servers()
  const ending = new AbortController()
  const signal = AbortSignal.any([options.signal, ending.signal])
  setMaxListeners(0, signal)
  try {
    let serversMs = 0
    const ready = options.allServers
      ? servers.targets(names).then(() => (serversMs = performance.now() - startedMs))
      : Promise.resolve()
    const results = { checks: [] as CheckResult[], files: [] as FileResult[] }
    const done = <T extends CheckResult | FileResult>(list: T[], one: T): void => {
      list.push(one)
      if (!signal.aborted) options.onDone?.(one)
    }
    const check = async (one: Check): Promise<void> => done(results.checks, await timed(one, signal))
    const early = inOrder(options.checks.filter(({ needsBuild }) => !needsBuild).map((one) => () => check(one)))
    early.catch(() => {}) // until it is awaited
    const [built] = await Promise.all([build(signal), ready])
    options.signal.throwIfAborted()
    done(results.checks, built)
    if (built.wrong === undefined) {
      const targets = async (wanted: readonly string[]): Promise<string> => servers.targets(wanted)
      const { grep, timeoutMs = TIMEOUT_MS } = options
      const processes = new TestProcesses({ grep, timeoutMs, targets, signal })
      const lanes = options.jobs === undefined ? usualLanes() : { least: options.jobs, most: options.jobs }
      await inLanes(lanes, [
        ...options.checks.filter(({ needsBuild }) => needsBuild).map((one) => () => check(one)),
        ...options.files.map((file) => async () => done(results.files, await processes.run(file))),
      ])
      await Promise.all([early, processes.end()])
      options.signal.throwIfAborted()
    }
    return { ms: performance.now() - startedMs, serversMs, ...results }
  } finally {
    ending.abort()
    await servers.stop()
  }
}

async function inOrder(works: readonly (() => Promise<void>)[]): Promise<void> {
  for (const work of works) await work()
}

/** The names of the servers that test files can ask for; from now on they can be opened in this process. */
export function knownServers(): readonly string[] {
  const targets = [...redisTargets(), ...postgresTargets(), pgbouncerTarget(), ...etcdTargets(), dynamodbTarget()]
  return targets.map(({ name }) => name)
}

/** The test command: `npx -y pnpm@10 test`, and its relatives for some files, for the daily loop and for many runs. */
import { writeFileSync } from 'node:fs'
import { Command, InvalidArgumentError, Option } from 'commander'
import { checks } from './checks.ts'
import { type Package, PACKAGES } from './faults.ts'
import { NODES, nodeOf, writeReliability } from './matrix.ts'
import { BadInput, chosenFaults, printScores, printTrial, recordScores, tryFaults } from './mutants.ts'
import { printDone, printSummary, totals, writeJson } from './report.ts'
import { soak } from './soak.ts'
import { runSuite, type SuiteOptions, type SuiteResult } from './suite.ts'
import { changed } from './watch.ts'
import { allTests, namedTests, quickTests, record, testsOn } from './test-files.ts'

interface Flags {
  readonly grep?: string
  readonly jobs?: number
  readonly json?: string
  readonly record?: boolean
  readonly watch?: boolean
  readonly write?: boolean
  readonly busy: number
  readonly fresh?: boolean
}

interface MutantFlags {
  readonly package?: Package
  readonly only?: string
  readonly changed?: string | true
  readonly jobs?: number
  readonly record?: boolean
}

const stopping = new AbortController()
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(name, () => {
    process.exitCode = 130
    stopping.abort(new Error('interrupted'))
  })
}

const program = new Command('suite').description('Builds, checks and tests this workspace.')

shared(program.command('all').description('everything: build, checks, all tests; starts the servers it needs'))
  .option('--record', 'write down how long each file took, for the order of later runs')
  .action(async (flags: Flags) => {
    const result = await tested({ files: allTests(), checks: checks(), allServers: true }, flags)
    if (flags.record) recordDurations(result)
  })

shared(program.command('quick').description('core, recipes on memory, the contract on one store of each kind')).action(
  async (flags: Flags) => {
    await tested({ files: quickTests(), checks: [], allServers: false }, flags)
  },
)

shared(
  program.command('matrix').description('what is too long for every change: long races, and other versions of Node'),
)
  .option('--write', 'replace the record in docs/reliability.md')
  .action(async (flags: Flags) => {
    process.env['LEASE_SUITE'] = 'matrix' // the processes of the test files inherit it
    const others = await Promise.all(NODES.map(async (version) => testsOn(version, await nodeOf(version))))
    const files = [...allTests(), ...others.flat()]
    const result = await tested({ files, checks: checks(), allServers: true, timeoutMs: 600_000 }, flags)
    if (flags.write) writeReliability(result)
  })

shared(
  program.command('file').argument('<paths...>', 'test files, or folders with test files').description('some files'),
)
  .option('-g, --grep <title>', 'only tests whose full title matches; it fails when none does')
  .option('--watch', 'again after each change of a source or a test')
  .action(async (paths: string[], flags: Flags) => {
    const run = (): Promise<unknown> =>
      tested({ files: namedTests(paths), checks: [], allServers: false, grep: grepOf(flags) }, flags, true)
    if (!flags.watch) return void (await run())
    namedTests(paths)
    grepOf(flags)
    for (;;) {
      const change = changed(stopping.signal) // also what changes during the run
      change.catch(() => {})
      await run().catch(printError)
      stopping.signal.throwIfAborted()
      console.log('\nwaiting for a change; Ctrl-C ends')
      await change
    }
  })

shared(
  program
    .command('soak')
    .argument('<times>', 'how many runs', positive)
    .argument('[paths...]', 'test files; all if none'),
)
  .description('runs again and again beside busy loops; goes on after an interruption')
  .option('-g, --grep <title>', 'only tests whose full title matches')
  .option('--busy <n>', 'busy loops beside it', natural, 2)
  .option('--fresh', 'forget the runs before an interruption')
  .action(async (times: number, paths: string[], flags: Flags) => {
    const some = paths.length > 0
    const selection = some
      ? { files: namedTests(paths), checks: [], allServers: false, grep: grepOf(flags) }
      : { files: allTests(), checks: checks(), allServers: true, grep: grepOf(flags) }
    const green = await soak({
      times,
      busy: flags.busy,
      fresh: flags.fresh === true,
      subject: JSON.stringify([paths, flags.grep, flags.busy, flags.jobs]),
      json: flags.json,
      run: async () => {
        const result = await runSuite({ ...selection, ...common(flags), onDone: quietly })
        if (!matched(result)) throw new Error(`no test matches ${flags.grep}`)
        return result
      },
    })
    if (!green) process.exitCode = 1
  })

program
  .command('mutants')
  .description('tries faults: a test must notice each; exits with 1 if one survives or is stale')
  .addOption(new Option('--package <name>', 'only faults of this package').choices(PACKAGES))
  .option('--only <words>', 'only faults with these words in their names')
  .option('--changed [commit]', 'only faults in sources that differ from this commit (default: HEAD)')
  .option('--jobs <n>', 'faults at a time (default: one per core)', positive)
  .option('--record', 'keep the score in docs/reliability.md')
  .exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? 0 : 2))
  .action(async (flags: MutantFlags) => {
    const { only, jobs, record: keeps = false } = flags
    const changedSince = flags.changed === true ? 'HEAD' : flags.changed
    if (keeps && (only !== undefined || changedSince !== undefined)) {
      throw new BadInput('--record wants all faults of a package: leave out --only and --changed')
    }
    const packages = flags.package === undefined ? PACKAGES : [flags.package]
    const faults = await chosenFaults({ packages, only, changedSince })
    let done = 0
    const trials = await tryFaults(faults, {
      jobs,
      signal: stopping.signal,
      onDone: (trial) => printTrial(trial, `${++done}/${faults.length}`),
    })
    printScores(trials)
    if (keeps) recordScores(trials)
    if (trials.some(({ outcome }) => outcome === 'survived' || outcome === 'stale')) process.exitCode = 1
  })

program
  .command('reference')
  .description('writes docs/reference.md from the sources: events, warnings, options')
  .action(async () => {
    const { reference, REFERENCE_PAGE } = await import('./reference.ts') // loads the compiler
    writeFileSync(REFERENCE_PAGE, reference())
  })

try {
  await program.parseAsync()
} catch (error) {
  printError(error)
  process.exitCode ??= error instanceof BadInput ? 2 : 1
}
// Nothing that a library left behind keeps the command alive.
process.exit()

/** One line that says what to do; the rest of it only for those who ask. */
function printError(error: unknown): void {
  console.error(error instanceof Error ? error.message : String(error))
  if (process.env['DEBUG'] !== undefined) console.error(error)
}

function shared(command: Command): Command {
  return command
    .option(
      '--jobs <n>',
      'processes at a time (default: two per core, and up to four per core while the cores idle)',
      positive,
    )
    .option('--json <file>', 'write all outcomes there as well', writable)
}

async function tested(
  selection: Pick<SuiteOptions, 'files' | 'checks' | 'allServers' | 'grep' | 'timeoutMs'>,
  flags: Flags,
  titles = false,
): Promise<SuiteResult> {
  const result = await runSuite({ ...selection, ...common(flags), onDone: (done) => printDone(done, titles) })
  if (flags.json !== undefined) writeJson(flags.json, result)
  printSummary(result)
  const { failed, passed } = totals(result)
  if (!matched(result)) throw new Error(`no test matches ${flags.grep}`)
  if (failed === 0 && passed === 0) throw new Error('no test has run: all were skipped')
  if (failed > 0) process.exitCode = 1
  return result
}

function common(flags: Flags): Pick<SuiteOptions, 'jobs' | 'signal'> {
  return { jobs: flags.jobs, signal: stopping.signal }
}

/** Prints only what failed. */
function quietly(done: Parameters<typeof printDone>[0]): void {
  const failed = 'file' in done ? done.outcomes.some(({ state }) => state === 'failed') : done.wrong !== undefined
  if (failed) printDone(done, false)
}

function matched({ files }: SuiteResult): boolean {
  return files.length === 0 || files.some((file) => file.matched)
}

function grepOf({ grep }: Flags): RegExp | undefined {
  if (grep === undefined) return undefined
  try {
    return new RegExp(grep)
  } catch (error) {
    throw new Error(`-g must be a regular expression: ${(error as Error).message}`, { cause: error })
  }
}

/** Parts of one file come back in any order. */
function recordDurations({ files }: SuiteResult): void {
  const took = new Map<string, number[]>()
  for (const { file, suitesMs } of files) {
    const all = took.get(file.path) ?? []
    for (const [index, ms] of suitesMs.entries()) all[(file.part?.index ?? 0) + index] = ms
    took.set(file.path, all)
  }
  record(took)
}

/** Found out before the run, not after it. */
function writable(file: string): string {
  try {
    writeFileSync(file, '')
  } catch (error) {
    throw new InvalidArgumentError(`It must be a file that can be written (${(error as Error).message}).`)
  }
  return file
}

function positive(text: string): number {
  const number = natural(text)
  if (number === 0) throw new InvalidArgumentError('It must be at least 1.')
  return number
}

function natural(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw new InvalidArgumentError('It must be a whole number.')
  return Number(text)
}

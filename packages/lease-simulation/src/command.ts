/**
 * The command line of a random tester: `--seeds 1-100000 [--flags late,no-pins] [--steps 120] [--jobs 2] [--keep-going] [--log]`
 *
 * Runs it for many seeds, in several processes. A seed that fails is shrunk, and its last steps are printed.
 */
import { fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { Command, InvalidArgumentError } from 'commander'
import { failureOf, type Plan } from './seeds.ts'
import type { Tester } from './tester.ts'

interface Orders extends Plan {
  readonly log: boolean
  readonly keepGoing: boolean
}

interface Totals {
  runs: number
  calls: number
  terms: number
  grants: number
  simulatedMs: number
  cpuMs: number
  /** By rule the seeds that failed. */
  failed: Record<string, number[]>
}

const CHUNK = 10
/** How one more process learns what it is. */
const FOLLOW = 'follow'

/** Does what the command line of this process says. @param script its main file, which calls this: more processes run it as well */
export async function runCommand<Settings>(tester: Tester<Settings>, script: string): Promise<void> {
  if (process.argv[2] !== FOLLOW) return lead(tester, script)
  process.on('message', ({ seeds, plan }: { seeds: readonly number[]; plan: Orders }) => {
    void simulate(tester, seeds, plan).then((totals) => process.send?.(totals))
  })
}

async function simulate<Settings>(tester: Tester<Settings>, seeds: readonly number[], plan: Orders): Promise<Totals> {
  const { flags, steps, log, keepGoing } = plan
  const totals = noTotals()
  const before = process.cpuUsage()
  for (const seed of seeds) {
    const settings = tester.settingsOf(seed, flags, steps)
    const result = await tester.run(settings, { log })
    totals.runs++
    totals.calls += result.calls
    totals.terms += result.terms
    totals.grants += result.grants
    totals.simulatedMs += result.simulatedMs
    const [problem] = result.problems
    if (problem === undefined) {
      if (log) console.log(result.log.join('\n'))
      continue
    }
    ;(totals.failed[problem.rule] ??= []).push(seed)
    if (keepGoing) continue
    console.log(`\n${await failureOf(tester, seed, plan, problem, log)}\n`)
    break
  }
  const { user, system } = process.cpuUsage(before)
  totals.cpuMs = (user + system) / 1000
  return totals
}

function noTotals(): Totals {
  return { runs: 0, calls: 0, terms: 0, grants: 0, simulatedMs: 0, cpuMs: 0, failed: {} }
}

function add(sum: Totals, { failed, ...more }: Totals): void {
  for (const key of Object.keys(more) as (keyof typeof more)[]) sum[key] += more[key]
  for (const [rule, seeds] of Object.entries(failed)) (sum.failed[rule] ??= []).push(...seeds)
}

function show(totals: Totals, wallMs: number): string {
  const { runs, calls, terms, grants, simulatedMs, cpuMs } = totals
  const perSecond = Math.round((1000 * terms) / Math.max(1, cpuMs))
  return (
    `${runs} runs, ${calls} calls, ${terms} terms opened, ${grants} grants in all, ${(simulatedMs / 3_600_000).toFixed(1)} simulated hours; ` +
    `${(cpuMs / 1000).toFixed(0)} s of CPU (${perSecond} terms and ${Math.round((1000 * calls) / Math.max(1, cpuMs))} calls per second), ${(wallMs / 1000).toFixed(0)} s`
  )
}

/** What the command line asks for; ends the process with a message where it cannot be. */
function ordersOf<Settings>(tester: Tester<Settings>): Orders & {
  readonly seeds: readonly [number, number]
  readonly jobs: number
} {
  const { script, defaultSteps } = tester
  const program = new Command(script)
    .description('Runs the random tester for many seeds; a run that fails is shrunk, and its last steps are shown.')
    .option('--seeds <from-to>', 'which runs: one number, or the first and the last', seedsOf, [1, 1000] as const)
    .option(
      '--flags <list>',
      'features to turn on or off (no-…), separated by commas',
      (text) => flagsOf(tester, text),
      [],
    )
    .option('--steps <n>', 'the length of a run', positive, defaultSteps)
    .option('--jobs <n>', 'processes at a time', positive, availableParallelism())
    .option('--log', 'show every step', false)
    .option('--keep-going', 'count what fails by rule, instead of ending', false)
  return program.parse().opts()
}

function seedsOf(text: string): readonly [number, number] {
  const [, first, last = first] = /^(\d+)(?:-(\d+))?$/.exec(text) ?? []
  const [from, to] = [Number(first), Number(last)]
  if (from <= to) return [from, to]
  throw new InvalidArgumentError('It must be a whole number, or two as in 1-1000.')
}

function flagsOf<Settings>(tester: Tester<Settings>, text: string): readonly string[] {
  const flags = text.split(',').filter(Boolean)
  try {
    tester.checkFlags(flags)
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
  return flags
}

function positive(text: string): number {
  const number = Number(text)
  if (Number.isSafeInteger(number) && number > 0) return number
  throw new InvalidArgumentError('It must be a whole number above 0.')
}

/** The process that hands out the seeds. */
async function lead<Settings>(tester: Tester<Settings>, script: string): Promise<void> {
  const { seeds, jobs: mostJobs, ...plan } = ordersOf(tester)
  const [from, to] = seeds
  const startedMs = performance.now()
  const totals = noTotals()
  let next = from
  let shownMs = startedMs
  const hasFailed = (): boolean => Object.keys(totals.failed).length > 0 && !plan.keepGoing
  const take = (): readonly number[] | undefined => {
    if (next > to || hasFailed()) return undefined
    const some = Array.from({ length: Math.min(CHUNK, to - next + 1) }, (_, index) => next + index)
    next += some.length
    return some
  }
  const noteDone = (more: Totals): void => {
    add(totals, more)
    if (performance.now() - shownMs < 10_000) return
    shownMs = performance.now()
    console.log(show(totals, shownMs - startedMs))
  }
  const jobs = Math.min(mostJobs, Math.ceil((to - from + 1) / CHUNK))
  if (jobs <= 1) {
    for (let some = take(); some !== undefined; some = take()) noteDone(await simulate(tester, some, plan))
  } else await Promise.all(Array.from({ length: jobs }, () => follow(script, plan, take, noteDone)))
  console.log(show(totals, performance.now() - startedMs))
  for (const [rule, seeds] of Object.entries(totals.failed)) {
    const some = seeds.toSorted((a, b) => a - b).slice(0, 10)
    console.log(`${rule}: ${seeds.length} seeds, such as ${some.join()}`)
  }
  const problems = Object.values(totals.failed).flat().length
  console.log(problems === 0 ? 'no problem found' : `${problems} seeds failed`)
  process.exitCode = problems === 0 ? 0 : 1
}

/** One more process, until no seeds are left. */
function follow(
  script: string,
  plan: Orders,
  take: () => readonly number[] | undefined,
  done: (totals: Totals) => void,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = fork(script, [FOLLOW])
    const give = (): void => {
      const seeds = take()
      if (seeds === undefined) child.disconnect()
      else child.send({ seeds, plan })
    }
    child.on('message', (totals) => {
      done(totals as Totals)
      give()
    })
    child.on('error', reject)
    child.on('exit', (code) =>
      code === 0 ? resolve() : reject(new Error(`a process of the simulation ended with ${code}`)),
    )
    give()
  })
}

/**
 * The command line of a random tester: `--seeds 1-100000 [--flags late,no-pins] [--steps 120] [--jobs 2] [--keep-going] [--log]`
 *
 * Runs it for many seeds, in several processes. A seed that fails is shrunk, and its last steps are printed.
 */
import { fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { shrink } from './shrink.ts'
import type { Tester } from './tester.ts'

interface Plan {
  readonly flags: readonly string[]
  readonly steps: number
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

/** Does what the command line of this process says. @param script its main file, which calls this: more processes run it as well */
export async function runCommand<Settings>(tester: Tester<Settings>, script: string): Promise<void> {
  if (!process.argv.includes('--follow')) return lead(tester, script)
  process.on('message', ({ seeds, plan }: { seeds: readonly number[]; plan: Plan }) => {
    void simulate(tester, seeds, plan).then((totals) => process.send?.(totals))
  })
}

async function simulate<Settings>(tester: Tester<Settings>, seeds: readonly number[], plan: Plan): Promise<Totals> {
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
    console.log(`\nseed ${seed} (${tester.featuresOf(settings).join()}): ${problem.rule}: ${problem.what}`)
    const { without, result: small } = await shrink({
      rule: problem.rule,
      steps,
      rerun: (options) => tester.run(settings, options),
    })
    console.log(`${steps - without.size} of ${steps} steps are enough; the last ones:`)
    console.log((log ? small.log : small.log.slice(-40)).join('\n'))
    const again = [
      `--seeds ${seed}`,
      flags.length > 0 ? `--flags ${flags.join()}` : '',
      steps === tester.defaultSteps ? '' : `--steps ${steps}`,
    ]
    console.log(`again: npx -y pnpm@10 ${tester.script} ${again.filter(Boolean).join(' ')} --log\n`)
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

/** The process that hands out the seeds. */
async function lead<Settings>(tester: Tester<Settings>, script: string): Promise<void> {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '1-1000' },
      flags: { type: 'string', default: '' },
      steps: { type: 'string', default: String(tester.defaultSteps) },
      jobs: { type: 'string', default: String(availableParallelism()) },
      log: { type: 'boolean', default: false },
      'keep-going': { type: 'boolean', default: false },
    },
  })
  const [from = 1, to = from] = values.seeds.split('-').map(Number)
  const flags = values.flags.split(',').filter(Boolean)
  tester.checkFlags(flags)
  const plan: Plan = { flags, steps: Number(values.steps), log: values.log, keepGoing: values['keep-going'] }
  const startedMs = performance.now()
  const totals = noTotals()
  let next = from
  let shownMs = startedMs
  const hasFailed = (): boolean => Object.keys(totals.failed).length > 0 && !plan.keepGoing
  const take = (): readonly number[] | undefined => {
    if (next > to || hasFailed()) return undefined
    const seeds = Array.from({ length: Math.min(CHUNK, to - next + 1) }, (_, index) => next + index)
    next += seeds.length
    return seeds
  }
  const noteDone = (more: Totals): void => {
    add(totals, more)
    if (performance.now() - shownMs < 10_000) return
    shownMs = performance.now()
    console.log(show(totals, shownMs - startedMs))
  }
  const jobs = Math.min(Number(values.jobs), Math.ceil((to - from + 1) / CHUNK))
  if (jobs <= 1) {
    for (let seeds = take(); seeds !== undefined; seeds = take()) noteDone(await simulate(tester, seeds, plan))
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
  plan: Plan,
  take: () => readonly number[] | undefined,
  done: (totals: Totals) => void,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = fork(script, ['--follow'])
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

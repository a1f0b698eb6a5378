/**
 * `npx -y pnpm@10 simulate --seeds 1-100000 [--flags late,no-pins] [--steps 120] [--jobs 2] [--keep-going] [--log]`
 *
 * Runs the random tester of `lease-core` for many seeds. A seed that fails is shrunk, and its last steps are printed.
 */
import { fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { run } from './run.ts'
import { checkFlags, DEFAULT_STEPS, FEATURES, settingsOf } from './settings.ts'
import { shrink } from './shrink.ts'

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

const CHUNK = 50

async function simulate(seeds: readonly number[], { flags, steps, log, keepGoing }: Plan): Promise<Totals> {
  const totals = noTotals()
  const before = process.cpuUsage()
  for (const seed of seeds) {
    const settings = settingsOf(seed, flags, steps)
    const result = await run(settings, { log })
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
    const features = Object.keys(FEATURES).filter((feature) => settings[feature as keyof typeof FEATURES])
    console.log(`\nseed ${seed} (${features.join()}): ${problem.rule}: ${problem.what}`)
    const { without, result: small } = await shrink(settings, problem.rule)
    console.log(`${steps - without.size} of ${steps} steps are enough; the last ones:`)
    console.log((log ? small.log : small.log.slice(-40)).join('\n'))
    const again = [
      `--seeds ${seed}`,
      flags.length > 0 ? `--flags ${flags.join()}` : '',
      steps === DEFAULT_STEPS ? '' : `--steps ${steps}`,
    ]
    console.log(`again: npx -y pnpm@10 simulate ${again.filter(Boolean).join(' ')} --log\n`)
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
async function lead(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '1-1000' },
      flags: { type: 'string', default: '' },
      steps: { type: 'string', default: String(DEFAULT_STEPS) },
      jobs: { type: 'string', default: String(availableParallelism()) },
      log: { type: 'boolean', default: false },
      'keep-going': { type: 'boolean', default: false },
    },
  })
  const [from = 1, to = from] = values.seeds.split('-').map(Number)
  const flags = values.flags.split(',').filter(Boolean)
  checkFlags(flags)
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
  if (jobs <= 1) for (let seeds = take(); seeds !== undefined; seeds = take()) noteDone(await simulate(seeds, plan))
  else await Promise.all(Array.from({ length: jobs }, () => follow(plan, take, noteDone)))
  console.log(show(totals, performance.now() - startedMs))
  for (const [rule, seeds] of Object.entries(totals.failed)) {
    console.log(
      `${rule}: ${seeds.length} seeds, such as ${seeds
        .toSorted((a, b) => a - b)
        .slice(0, 10)
        .join()}`,
    )
  }
  const problems = Object.values(totals.failed).flat().length
  console.log(problems === 0 ? 'no problem found' : `${problems} seeds failed`)
  process.exitCode = problems === 0 ? 0 : 1
}

/** One more process, until no seeds are left. */
function follow(plan: Plan, take: () => readonly number[] | undefined, done: (totals: Totals) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), ['--follow'])
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

if (process.argv.includes('--follow')) {
  process.on('message', ({ seeds, plan }: { seeds: readonly number[]; plan: Plan }) => {
    void simulate(seeds, plan).then((totals) => process.send?.(totals))
  })
} else await lead()

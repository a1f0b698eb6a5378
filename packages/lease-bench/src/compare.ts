/**
 * Compares this checkout with another: both reach the same server, each in a process and a namespace or database of its
 * own, and take turns. Which side of a pair goes first alternates: AB BA AB ….
 */
import type { Arm, Metric, Place, Sample, Substrate, Table, Trial, Workload } from './bench.ts'
import type { Checkout } from './checkout.ts'
import type { BenchOptions } from './options.ts'
import { tablesOf, type Failure, type Job, type Progress, type SettingOption } from './run.ts'
import { judge, type Judgement, type Pair } from './verdict.ts'

export type Side = 'here' | 'there'

/** One arm on both sides. */
export interface Comparison extends Judgement {
  readonly substrate: string
  readonly place: string
  readonly workload: string
  readonly title: string
  readonly label: string
  readonly metric: Metric
  readonly pairs: readonly (Pair & { readonly first: Side })[]
}

export interface Comparisons {
  readonly compared: readonly Comparison[]
  /** Arms that could not be measured on both sides. */
  readonly failures: readonly (Failure & { readonly substrate: string; readonly workload: string })[]
}

export interface ComparisonSetting {
  readonly substrates: readonly Substrate[]
  readonly workloads: readonly Workload[]
  readonly options: Pick<BenchOptions, SettingOption> & {
    readonly pairs: number
    readonly seconds: number
    readonly warmUpSeconds: number
  }
  readonly other: Pick<Checkout, 'substrateNamed'>
  readonly progress: Progress
  /** Starts the trial of a job in the process of that side. */
  readonly launch: (job: Job, side: Side) => Promise<Trial>
  /** Receives each comparison as soon as it is there. */
  readonly finished: (comparison: Comparison) => void
  /** Ends everything early; what was started is closed all the same. */
  readonly signal: AbortSignal
}

/**
 * Without `only`, compares the library's own arms. An arm that fails is reported, and the others go on.
 *
 * @throws Error when nothing is left to compare; the reason of the signal once that aborts
 */
export async function compare(setting: ComparisonSetting): Promise<Comparisons> {
  const results: Comparisons[] = []
  for (const substrate of setting.substrates) results.push(await compareOn(substrate, setting))
  const compared = results.flatMap(({ compared }) => compared)
  const failures = results.flatMap(({ failures }) => failures)
  if (compared.length + failures.length === 0) throw new Error('nothing of these can be compared')
  return { compared, failures }
}

async function compareOn(substrate: Substrate, setting: ComparisonSetting): Promise<Comparisons> {
  const { workloads, options, other, signal } = setting
  const planned = tablesOf(substrate, workloads, options).flatMap(({ workload, table }) =>
    table.arms
      .filter(({ role }) => options.only !== undefined || role === 'library')
      .map((arm): Planned => ({ substrate, workload, table, arm })),
  )
  const results = { compared: [] as Comparison[], failures: [] as Comparisons['failures'][number][] }
  if (planned.length === 0) return results
  signal.throwIfAborted()
  const place = await substrate.open()
  try {
    const theirs = await (await other.substrateNamed(substrate.name)).open(place.url)
    const places = { here: place, there: theirs }
    try {
      for (const one of planned) {
        const outcome = await compareArm(one, places, setting)
        if ('verdict' in outcome) results.compared.push(outcome)
        else results.failures.push(outcome)
      }
      return results
    } finally {
      await theirs.close()
    }
  } finally {
    await place.close()
  }
}

interface Planned {
  readonly substrate: Substrate
  readonly workload: Workload
  readonly table: Table
  readonly arm: Arm
}

/** Rejects only with the reason of the signal. */
async function compareArm(
  { substrate, workload, table, arm }: Planned,
  places: Readonly<Record<Side, Place>>,
  { options, progress, launch, finished, signal }: ComparisonSetting,
): Promise<Comparison | Comparisons['failures'][number]> {
  const where = { substrate: substrate.name, workload: workload.name }
  const { title, metrics } = table
  const { label, adapter, task } = arm
  const start = (side: Side): Promise<Trial> => launch({ ...where, url: places[side].url, adapter, task }, side)
  const warmUpSeconds = workload.warmsUp === false ? 0 : options.warmUpSeconds
  progress.begin(`${where.substrate} ${where.workload} ${title}: ${label}`, 2 * options.pairs)
  try {
    const pairs = await pairsOf(start, { ...options, warmUpSeconds }, progress, signal)
    const [metric] = metrics
    const comparison = { ...where, place: places.here.about, title, label, metric, ...judge(pairs, metric), pairs }
    progress.end()
    finished(comparison)
    return comparison
  } catch (error) {
    signal.throwIfAborted()
    const failure = { label, reason: error instanceof Error ? error.message : String(error) }
    progress.failed(failure)
    return { ...where, ...failure }
  } finally {
    progress.end()
  }
}

interface Length {
  readonly pairs: number
  readonly seconds: number
  /** Of each side, beforehand; 0: none. */
  readonly warmUpSeconds: number
}

async function pairsOf(
  start: (side: Side) => Promise<Trial>,
  { pairs: count, seconds, warmUpSeconds }: Length,
  progress: Progress,
  signal: AbortSignal,
): Promise<Comparison['pairs']> {
  const trials: Partial<Record<Side, Trial>> = {}
  const measure = async (side: Side, length: number): Promise<Sample> => {
    const trial = trials[side]
    if (trial === undefined) throw new Error(`${side} has not started`)
    return unlessAborted(signal, trial.measure(length)).catch((error: unknown) => {
      throw named(side, error)
    })
  }
  try {
    for (const side of ['here', 'there'] as const) {
      signal.throwIfAborted()
      trials[side] = await start(side).catch((error: unknown) => {
        throw named(side, error)
      })
    }
    if (warmUpSeconds > 0) for (const side of ['here', 'there'] as const) await measure(side, warmUpSeconds)
    const pairs: Comparison['pairs'][number][] = []
    while (pairs.length < count) {
      const order: readonly [Side, Side] = pairs.length % 2 === 0 ? ['here', 'there'] : ['there', 'here']
      const samples: Partial<Record<Side, Sample>> = {}
      for (const side of order) {
        samples[side] = await measure(side, seconds)
        progress.measured(side)
      }
      const { here = {}, there = {} } = samples
      pairs.push({ first: order[0], here, there })
    }
    return pairs
  } finally {
    await Promise.allSettled([trials.here?.close(), trials.there?.close()])
  }
}

function named(side: Side, error: unknown): Error {
  return new Error(`${side}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
}

async function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  signal.throwIfAborted()
  let stop = (): void => {}
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(signal.reason as Error)
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    return await Promise.race([work, aborted])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

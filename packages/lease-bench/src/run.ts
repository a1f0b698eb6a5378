/** Runs the workloads: all arms of a table take turns, round by round, each round beginning with another of them. */
import type { Arm, Inability, Metric, Role, Sample, Substrate, Table, Trial, Workload } from './bench.ts'
import type { BenchOptions } from './options.ts'
import { pairedRatio, summarize, type Summary } from './statistics.ts'

/** One row: everything that was measured of one arm. */
export interface Row {
  readonly label: string
  readonly role: Role
  readonly about: string
  /** By metric. */
  readonly measured: Readonly<Record<string, Summary>>
  /** Of the table's first metric, by the label of the reference: this row ÷ that row. */
  readonly ratios: Readonly<Record<string, Summary>>
}

/** An arm that could not be measured. */
export interface Failure extends Inability {}

/** One table. */
export interface TableResult {
  readonly substrate: string
  readonly place: string
  readonly workload: string
  readonly title: string
  readonly repetitions: number
  /** 0: it did not warm up. */
  readonly warmUpSeconds: number
  readonly metrics: readonly Metric[]
  readonly references: readonly string[]
  readonly rows: readonly Row[]
  /** Those that are missing among the rows. */
  readonly failures: readonly Failure[]
  /** Others' libraries that cannot do it: known beforehand, or found out. */
  readonly unable: readonly Inability[]
}

/** Called while it runs. */
export interface Progress {
  /** Another table begins, with that many measurements. */
  begin(what: string, measurements: number): void
  measured(label: string): void
  failed(failure: Failure): void
  end(): void
}

/** What a process of its own is asked to do. */
export interface Job {
  readonly substrate: string
  readonly url: string
  readonly adapter: string
  readonly workload: string
  readonly task: unknown
}

/** Starts the trial of a job; rejects with what went wrong there. */
export type Launch = (job: Job) => Promise<Trial>

/**
 * An arm that fails is left out from then on, and named in the result: what the others take hours for is not lost. A library of
 * somebody else that fails is one that cannot do it.
 *
 * @throws Error when nothing is left to measure
 */
export async function run(
  substrates: readonly Substrate[],
  workloads: readonly Workload[],
  options: BenchOptions,
  progress: Progress,
  launch: Launch,
): Promise<readonly TableResult[]> {
  const results: TableResult[] = []
  for (const substrate of substrates) {
    const planned = tablesOf(substrate, workloads, options)
    if (planned.length === 0) continue
    const place = await substrate.open()
    try {
      for (const { workload, table } of planned) {
        const repetitions = Math.min(options.repetitions, workload.repetitions ?? Number.POSITIVE_INFINITY)
        const start = ({ adapter, task }: Arm): Promise<Trial> =>
          launch({ substrate: substrate.name, url: place.url, adapter, workload: workload.name, task })
        progress.begin(`${substrate.name} ${workload.name} ${table.title}`, table.arms.length * repetitions)
        const { seconds } = options
        const warmUpSeconds = workload.warmsUp === false ? 0 : options.warmUpSeconds
        const { rows, failures, unable } = await new Contest(table, start, progress).run({
          repetitions,
          seconds,
          warmUpSeconds,
        })
        progress.end()
        const { title, metrics } = table
        const references = table.references.filter((label) => rows.some((row) => row.label === label))
        const where = { substrate: substrate.name, place: place.about, workload: workload.name }
        results.push({ ...where, title, repetitions, warmUpSeconds, metrics, references, rows, failures, unable })
      }
    } finally {
      await place.close()
    }
  }
  if (results.length === 0) throw new Error('no adapter can do any of these workloads: nothing was measured')
  return results
}

/** The tables of these workloads that have arms. */
export function tablesOf(
  substrate: Substrate,
  workloads: readonly Workload[],
  { only, details, ...setting }: Pick<BenchOptions, SettingOption>,
): readonly { readonly workload: Workload; readonly table: Table }[] {
  const adapters = substrate.adapters.filter(({ name, isDetail }) => only?.includes(name) ?? (details || !isDetail))
  return workloads
    .filter(({ name }) => substrate.workloads?.includes(name) ?? true)
    .flatMap((workload) =>
      workload
        .tables({ ...setting, details, adapters })
        .filter(({ arms }) => arms.length > 0)
        .map((table) => ({ workload, table })),
    )
}

/** What decides which tables there are. */
export type SettingOption = 'only' | 'details' | 'callers' | 'sizes' | 'durationMs' | 'waiters' | 'others'

/** To start the process of an arm and to end it, about. */
const STARTING_SECONDS = 1

/** How long a run takes, about, the start of servers left out. */
export function plannedSeconds(
  substrates: readonly Substrate[],
  workloads: readonly Workload[],
  options: Pick<BenchOptions, SettingOption | 'repetitions' | 'seconds' | 'warmUpSeconds'>,
): number {
  let planned = 0
  for (const substrate of substrates) {
    for (const { workload, table } of tablesOf(substrate, workloads, options)) {
      const repetitions = Math.min(options.repetitions, workload.repetitions ?? Number.POSITIVE_INFINITY)
      for (const arm of table.arms) {
        const takes = (seconds: number): number => workload.takes?.(seconds, arm) ?? seconds
        const warmUp = workload.warmsUp === false || options.warmUpSeconds === 0 ? 0 : takes(options.warmUpSeconds)
        planned += STARTING_SECONDS + warmUp + repetitions * takes(options.seconds)
      }
    }
  }
  return planned
}

interface Length {
  readonly repetitions: number
  readonly seconds: number
  /** Beforehand: code is compiled, connections are open, statements are prepared. 0: no warming up. */
  readonly warmUpSeconds: number
}

/** One table while it is measured. */
class Contest {
  readonly #table: Table
  readonly #start: (arm: Arm) => Promise<Trial>
  readonly #progress: Progress
  /** Of those that have not failed. */
  readonly #trials = new Map<Arm, Trial>()
  readonly #failures: Failure[] = []
  readonly #unable: Inability[] = []

  constructor(table: Table, start: (arm: Arm) => Promise<Trial>, progress: Progress) {
    this.#table = table
    this.#start = start
    this.#progress = progress
  }

  async run({
    repetitions,
    seconds,
    warmUpSeconds,
  }: Length): Promise<Pick<TableResult, 'rows' | 'failures' | 'unable'>> {
    const { arms } = this.#table
    const samples = new Map<Arm, Sample[]>(arms.map((arm) => [arm, []]))
    try {
      for (const arm of arms) {
        await this.#attempt(arm, async () => void this.#trials.set(arm, await this.#start(arm)))
      }
      for (const arm of warmUpSeconds > 0 ? arms : []) {
        await this.#attempt(arm, async () => void (await this.#trials.get(arm)?.measure(warmUpSeconds)))
      }
      for (let round = 0; round < repetitions; round++) {
        for (let turn = 0; turn < arms.length; turn++) {
          const arm = arms[(turn + round) % arms.length] as Arm
          const trial = this.#trials.get(arm)
          if (trial !== undefined) {
            await this.#attempt(arm, async () => void samples.get(arm)?.push(await trial.measure(seconds)))
          }
          this.#progress.measured(arm.label)
        }
      }
      const unable = [...(this.#table.unable ?? []), ...this.#unable]
      return { rows: this.#rows(samples), failures: this.#failures, unable }
    } finally {
      await Promise.all(
        [...this.#trials.keys()].map((arm) => this.#attempt(arm, async () => this.#trials.get(arm)?.close())),
      )
    }
  }

  async #attempt(arm: Arm, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      const failure = { label: arm.label, reason: error instanceof Error ? error.message : String(error) }
      if (arm.role === 'peer') this.#unable.push(failure)
      else this.#failures.push(failure)
      this.#progress.failed(failure)
      const trial = this.#trials.get(arm)
      this.#trials.delete(arm)
      await trial?.close().catch(() => {}) // it has failed already
    }
  }

  #rows(samples: ReadonlyMap<Arm, readonly Sample[]>): readonly Row[] {
    const { metrics, references } = this.#table
    const arms = [...this.#trials.keys()].toSorted((a, b) => this.#table.arms.indexOf(a) - this.#table.arms.indexOf(b))
    const valuesOf = (arm: Arm, metric: string): number[] =>
      (samples.get(arm) ?? []).map((sample) => sample[metric] ?? Number.NaN)
    const main = metrics[0].name
    return arms.map((arm) => ({
      label: arm.label,
      role: arm.role,
      about: arm.about,
      measured: Object.fromEntries(metrics.map(({ name }) => [name, summarize(valuesOf(arm, name))])),
      ratios: Object.fromEntries(
        arms
          .filter(({ label }) => references.includes(label))
          .map((reference) => [reference.label, pairedRatio(valuesOf(arm, main), valuesOf(reference, main))]),
      ),
    }))
  }
}

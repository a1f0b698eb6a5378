/** Runs the workloads: all arms of a group take turns, round by round, each round beginning with another of them. */
import type { Group, Metric, Role, Sample, Setting, Substrate, Workload } from './bench.ts'
import type { BenchOptions } from './options.ts'
import { pairedRatio, summarize, type Summary } from './statistics.ts'

/** One row: everything that was measured of one arm. */
export interface Row {
  readonly label: string
  readonly role: Role
  readonly about: string
  /** By metric. */
  readonly measured: Readonly<Record<string, Summary>>
  /** Of the group's first metric, by the label of the reference: this row ÷ that row. */
  readonly ratios: Readonly<Record<string, Summary>>
}

/** One table. */
export interface GroupResult {
  readonly substrate: string
  readonly place: string
  readonly workload: string
  readonly title: string
  readonly metrics: readonly Metric[]
  readonly references: readonly string[]
  readonly rows: readonly Row[]
}

/** Told while it runs. */
export interface Progress {
  /** Another group begins, with that many measurements. */
  begin(what: string, measurements: number): void
  measured(label: string): void
  end(): void
}

/** Warming up: code is compiled, connections are open, statements are prepared. */
const WARM_UP_SECONDS = 0.3

/** @throws Error when nothing is left to measure */
export async function run(
  substrates: readonly Substrate[],
  workloads: readonly Workload[],
  options: BenchOptions,
  progress: Progress,
): Promise<readonly GroupResult[]> {
  const results: GroupResult[] = []
  for (const substrate of substrates) {
    const adapters = substrate.adapters.filter(({ name }) => options.only?.includes(name) ?? true)
    if (adapters.length === 0) continue
    const place = await substrate.open()
    try {
      for (const workload of workloads) {
        const { callers, sizes, durationMs, waiters } = options
        const setting: Setting = { place, adapters, callers, sizes, durationMs, waiters }
        for await (const group of workload.groups(setting)) {
          try {
            if (group.arms.length === 0) continue
            progress.begin(`${substrate.name} ${workload.name} ${group.title}`, group.arms.length * options.repetitions)
            const rows = await measure(group, options, progress)
            const { title, metrics } = group
            const references = group.references.filter((label) => rows.some((row) => row.label === label))
            const where = { substrate: substrate.name, place: place.about, workload: workload.name }
            results.push({ ...where, title, metrics, references, rows })
          } finally {
            progress.end()
            await group.close()
          }
        }
      }
    } finally {
      await place.close()
    }
  }
  if (results.length === 0) throw new Error('no adapter can do any of these workloads: nothing was measured')
  return results
}

async function measure(group: Group, options: BenchOptions, progress: Progress): Promise<readonly Row[]> {
  const { arms } = group
  const samples = new Map<string, Sample[]>(arms.map(({ label }) => [label, []]))
  for (const arm of arms) await arm.measure(Math.min(options.seconds, WARM_UP_SECONDS))
  for (let round = 0; round < options.repetitions; round++) {
    for (let turn = 0; turn < arms.length; turn++) {
      const arm = arms[(turn + round) % arms.length]
      if (arm === undefined) continue
      samples.get(arm.label)?.push(await arm.measure(options.seconds))
      progress.measured(arm.label)
    }
  }
  const valuesOf = (label: string, metric: string): number[] =>
    (samples.get(label) ?? []).map((sample) => sample[metric] ?? Number.NaN)
  const main = group.metrics[0].name
  return arms.map(({ label, role, about }) => ({
    label,
    role,
    about,
    measured: Object.fromEntries(group.metrics.map(({ name }) => [name, summarize(valuesOf(label, name))])),
    ratios: Object.fromEntries(
      group.references
        .filter((reference) => samples.has(reference))
        .map((reference) => [reference, pairedRatio(valuesOf(label, main), valuesOf(reference, main))]),
    ),
  }))
}

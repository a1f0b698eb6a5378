/** The results as tables for a terminal and as JSON. */
import { cpus, totalmem } from 'node:os'
import Table from 'cli-table3'
import type { BenchOptions } from './options.ts'
import type { Row, TableResult } from './run.ts'
import type { Summary } from './statistics.ts'

/** What was run, on what, and what came out. */
export interface Report {
  readonly date: string
  readonly machine: string
  readonly node: string
  readonly options: BenchOptions
  readonly results: readonly TableResult[]
}

export function reportOf(options: BenchOptions, results: readonly TableResult[]): Report {
  const processors = cpus()
  return {
    date: new Date().toISOString(),
    machine: `${processors.length} × ${processors[0]?.model.trim() ?? 'unknown'}, ${Math.round(totalmem() / 2 ** 30)} GB`,
    node: process.version,
    options,
    results,
  }
}

export function tables({ date, machine, node, options, results }: Report): string {
  const parts = [
    `${date.slice(0, 10)} · node ${node} · ${machine}`,
    `Medians of ${options.repetitions} × ${options.seconds} s after ${options.warmUpSeconds} s to warm up, taken in turns; in brackets the lowest and the highest.`,
    ...results.map((result) => `\n${result.workload} on ${result.place}: ${result.title}\n${tableOf(result)}`),
  ]
  return parts.join('\n')
}

function tableOf(result: TableResult): string {
  const { head, rows } = cellsOf(result)
  const [, ...figures] = head
  const table = new Table({
    head: [...head],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', ...figures.map(() => 'right' as const)],
  })
  table.push(...rows.map((row) => [...row]))
  const legend = result.rows.filter(({ about }) => about !== '').map(({ label, about }) => `  ${label}: ${about}`)
  const missing = result.failures.map(({ label, reason }) => `  left out: ${label}: ${firstLine(reason)}`)
  return [table.toString(), ...legend, ...missing].join('\n')
}

/** A table as it is shown, on a terminal or in a document. */
export interface Cells {
  readonly head: readonly string[]
  readonly rows: readonly (readonly string[])[]
}

/**
 * Where the library is compared with others, each row says how many times as fast (or as large) the library is; where
 * it is compared with itself, how many times the row is the reference.
 */
export function cellsOf({ metrics, references, rows, unable }: TableResult): Cells {
  const compared = rows.filter(({ label, role }) => role === 'library' && !references.includes(label))
  const toOthers = references.every((reference) =>
    rows.some(({ label, role }) => label === reference && role !== 'library'),
  )
  const ratios = toOthers
    ? compared.map(({ label, ratios }) => ({
        head: `${label} ÷ this`,
        of: (row: Row) => (row.label === label ? '1' : shown(ratios[row.label], false)),
      }))
    : references.map((reference) => ({
        head: `÷ ${reference}`,
        of: ({ label, ratios }: Row) => (label === reference ? '1' : shown(ratios[reference], false)),
      }))
  const shownRatios = references.length === 0 ? [] : ratios
  const head = ['', ...metrics.map(({ name }) => name), ...shownRatios.map(({ head }) => head)]
  return {
    head,
    rows: [
      ...rows.map((row) => [
        row.label,
        ...metrics.map(({ name }, index) => shown(row.measured[name], index === 0)),
        ...shownRatios.map(({ of }) => of(row)),
      ]),
      ...unable.map(({ label, reason }) => [label, `cannot: ${firstLine(reason)}`, ...head.slice(2).map(() => '')]),
    ],
  }
}

export function firstLine(text: string): string {
  return text.split('\n')[0] ?? ''
}

function shown(summary: Summary | undefined, withSpread: boolean): string {
  if (summary === undefined) return ''
  const { median, min, max } = summary
  return withSpread && min !== max ? `${figure(median)} [${figure(min)}–${figure(max)}]` : figure(median)
}

/** Three digits, or the whole number where that has more. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return '–'
  const maximumFractionDigits = Math.min(3, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value) || 1))))
  return value.toLocaleString('en-US', { maximumFractionDigits })
}

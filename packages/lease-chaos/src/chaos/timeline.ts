/** Draws a history: one HTML file without anything from outside. */
import { writeFileSync } from 'node:fs'
import { groupedBy, type Window } from '../checker.ts'
import { factsOf, type Violation } from './checks/facts.ts'
import { RUN, type ChaosEvent } from './event.ts'
import type { History } from './history.ts'

const WIDTH = 1600
const LABELS = 110
const ROW = 16
/** More would be too much for a browser: those with violations come first. */
const MOST_LEASES = 24
const MOST_BARS = 3_000

/** Writes the drawing of a history to this file. */
export function drawTimeline(history: History, violations: readonly Violation[], file: string): void {
  writeFileSync(file, timelineOf(history, violations))
}

/** For each lease: a row for each process, in it a bar for each term that it relied on; faults are bands, violations lines. */
export function timelineOf(history: History, violations: readonly Violation[]): string {
  const { settings, events, damage } = history
  const { windows } = factsOf(history)
  const fromMs = Math.min(...span(events, windows))
  const toMs = Math.max(...span(events, windows), fromMs + 1)
  const xOf = (atMs: number): number => LABELS + ((atMs - fromMs) / (toMs - fromMs)) * (WIDTH - LABELS)
  const drawn = leasesOf(windows, violations)
  const faults = faultsOf(events, toMs)
  const body = drawn.map((lease) => {
    const own = windows.filter((window) => window.lease === lease)
    return panel(lease, { windows: own, violations: violations.filter((one) => one.lease === lease), faults, xOf })
  })
  const leases = new Set(windows.map(({ lease }) => lease))
  const notes = [
    `${violations.length} violations, ${events.length} events, ${faults.length} faults, ${((toMs - fromMs) / 1000).toFixed(1)} s`,
    ...(leases.size > drawn.length ? [`${leases.size - drawn.length} more leases are not drawn`] : []),
    ...damage,
  ]
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${escaped(settings.ground)}, seed ${settings.seed}</title>
<style>
body { font: 13px system-ui, sans-serif; margin: 1em; color: #222; background: #fff }
h2 { font-size: 14px; margin: 1em 0 .2em } li { font-family: monospace }
svg { display: block } text { font: 11px monospace } .fault { fill: #f5c36b; opacity: .35 } .wrong { stroke: #d00; stroke-width: 2 }
</style>
<h1>${escaped(settings.ground)}, seed ${settings.seed}</h1>
<p>${notes.map(escaped).join('<br>')}</p>
<ul>${violations.map((one) => `<li>${escaped(wordsOf(one, fromMs))}</li>`).join('\n')}</ul>
${body.join('\n')}
</html>
`
}

/** One line of a violation. */
export function wordsOf({ check, lease, atMs, what }: Violation, fromMs: number): string {
  return `${check} ${lease} at ${((atMs - fromMs) / 1000).toFixed(3)} s: ${what}`
}

interface Panel {
  readonly windows: readonly Window[]
  readonly violations: readonly Violation[]
  readonly faults: readonly Fault[]
  readonly xOf: (atMs: number) => number
}

interface Fault {
  readonly name: string
  readonly fromMs: number
  readonly toMs: number
}

function panel(lease: string, { windows, violations, faults, xOf }: Panel): string {
  const rows = [...groupedBy(windows, ({ name }) => processOf(name))].toSorted(([a], [b]) => (a < b ? -1 : 1))
  const height = Math.max(1, rows.length) * ROW
  const bars = rows.flatMap(([name, own], row) => [
    `<text x="0" y="${row * ROW + 12}">${escaped(name)}</text>`,
    ...own.slice(0, MOST_BARS).map((window) => bar(window, row, xOf)),
  ])
  const bands = faults.map(({ name, fromMs, toMs }) =>
    rect({ x: xOf(fromMs), width: xOf(toMs) - xOf(fromMs), y: 0, height }, 'class="fault"', name),
  )
  const marks = violations.map(({ what, check, atMs }) => {
    const x = xOf(atMs).toFixed(1)
    return `<line class="wrong" x1="${x}" x2="${x}" y1="0" y2="${height}"><title>${escaped(`${check}: ${what}`)}</title></line>`
  })
  return `<h2>${escaped(lease)}</h2>
<svg width="${WIDTH}" height="${height}">${[...bands, ...bars, ...marks].join('\n')}</svg>`
}

function bar({ name, token, fromMs, toMs }: Window, row: number, xOf: (atMs: number) => number): string {
  const box = { x: xOf(fromMs), width: Math.max(1, xOf(toMs) - xOf(fromMs)), y: row * ROW + 2, height: ROW - 4 }
  const hue = Number((BigInt(token) * 137n) % 360n)
  return rect(box, `fill="hsl(${hue} 60% 50%)"`, `${name}, token ${token}, ${(toMs - fromMs).toFixed(1)} ms`)
}

interface Box {
  readonly x: number
  readonly y: number
  readonly width: number
  readonly height: number
}

function rect({ x, y, width, height }: Box, style: string, title: string): string {
  const size = `x="${x.toFixed(1)}" y="${y}" width="${width.toFixed(1)}" height="${height}"`
  return `<rect ${size} ${style}><title>${escaped(title)}</title></rect>`
}

/** From the fault to when it was mended. What a nemesis notes in between is a detail of it. */
function faultsOf(events: readonly ChaosEvent[], endMs: number): Fault[] {
  const faults: Fault[] = []
  let begun: ChaosEvent | undefined
  for (const event of events) {
    if (event.worker !== RUN) continue
    if (event.what === 'fault') begun ??= event
    if (event.what !== 'mended' || begun === undefined) continue
    faults.push({ name: event.detail ?? '', fromMs: begun.atMs, toMs: event.atMs })
    begun = undefined
  }
  return begun === undefined ? faults : [...faults, { name: begun.detail ?? '', fromMs: begun.atMs, toMs: endMs }]
}

/** Those with violations, then those with the most terms. */
function leasesOf(windows: readonly Window[], violations: readonly Violation[]): string[] {
  const byLease = groupedBy(windows, ({ lease }) => lease)
  const busy = [...byLease].toSorted(([, a], [, b]) => b.length - a.length).map(([lease]) => lease)
  return [...new Set([...violations.map(({ lease }) => lease), ...busy])].slice(0, MOST_LEASES)
}

function span(events: readonly ChaosEvent[], windows: readonly Window[]): number[] {
  const first = events[0]
  const last = events.at(-1)
  const longest = windows.reduce((end, { toMs }) => Math.max(end, toMs), Number.NEGATIVE_INFINITY)
  return first === undefined || last === undefined ? [0] : [first.atMs, last.atMs, Math.max(longest, last.atMs)]
}

/** The process of a holder `p1-0-7`. */
function processOf(holder: string): string {
  return holder.split('-')[0] ?? holder
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}

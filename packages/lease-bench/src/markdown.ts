/**
 * The tables in a document whose text is written by hand: each workload on each substrate has its place there, between
 * `<!-- bench W1 redis -->` and `<!-- /bench -->`. What was measured on a substrate is filled in anew, the rest stays.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { cellsOf, firstLine, type Report } from './report.ts'
import type { TableResult } from './run.ts'

/** In the order in which they came. */
type Places = ReadonlyMap<string, string>

/**
 * Fills the places of the document; one that does not exist is written with nothing but them.
 *
 * @throws Error the document has no place for some of the tables; the others are filled
 */
export async function fillDocument(file: string, report: Report): Promise<void> {
  const places = placesOf(report)
  const before = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (before === undefined) {
    await writeFile(file, [...places].map(([name, content]) => placed(name, content)).join('\n\n') + '\n')
    return
  }
  let document = before
  const missing: string[] = []
  for (const [name, content] of places) {
    const begin = document.indexOf(opening(name))
    const end = document.indexOf(closing, begin)
    if (begin < 0 || end < 0) missing.push(name)
    else document = document.slice(0, begin) + placed(name, content) + document.slice(end + closing.length)
  }
  await writeFile(file, document)
  if (missing.length > 0) throw new Error(`${file} has no place for ${missing.map(opening).join(', ')}`)
}

const opening = (name: string): string => `<!-- bench ${name} -->`
const closing = '<!-- /bench -->'
const placed = (name: string, content: string): string => `${opening(name)}\n\n${content}\n\n${closing}`

function placesOf(report: Report): Places {
  const places = new Map<string, string>()
  for (const result of report.results) {
    const name = `${result.workload} ${result.substrate}`
    const before = places.get(name) ?? where(report, result)
    places.set(name, `${before}\n\n${tableOf(result)}`)
  }
  return places
}

function where({ date, node, machine, options }: Report, { place, repetitions, warmUpSeconds }: TableResult): string {
  const warmUp = warmUpSeconds > 0 ? ` after ${warmUpSeconds} s to warm up` : ''
  const length = `${repetitions} × ${options.seconds} s${warmUp}`
  return `${place} · ${date.slice(0, 10)} · Node ${node.replace(/^v/, '')} · ${machine} · ${length}`
}

function tableOf(result: TableResult): string {
  const { head, rows } = cellsOf(result)
  const [, ...figures] = head
  const name = (label: string): string => (label === '' ? '' : `\`${label}\``)
  return [
    `${result.title}:`,
    '',
    line(head),
    line(['---', ...figures.map(() => '--:')]),
    ...rows.map(([label = '', ...cells]) => line([name(label), ...cells])),
    ...result.failures.flatMap(({ label, reason }) => ['', `Left out: \`${label}\`: ${firstLine(reason)}`]),
  ].join('\n')
}

const line = (cells: readonly string[]): string => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`

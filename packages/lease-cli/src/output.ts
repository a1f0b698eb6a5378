/** How answers look: a table for people, the same columns without colour in a pipe, and JSON for programs. Data goes to stdout alone. */
import pc from 'picocolors'
import type { Io, Sink } from './io.ts'

/** When to use colours. */
export type ColorChoice = 'auto' | 'always' | 'never'

/** A column of a table. */
export interface Column<T> {
  readonly title: string
  readonly of: (row: T) => string
  /** Whether numbers are to be compared: they are aligned at the end. */
  readonly right?: boolean
  /** Where the terminal is narrow, columns with a higher number get narrower first. 0: never. */
  readonly yields: number
}

/** So many lines are written at once. */
const LINES_AT_ONCE = 2_000
/** No column gets narrower than this. */
const NARROWEST = 6

/** Writes the answers of one command. */
export class Output {
  readonly json: boolean
  readonly #io: Io
  readonly #out: ReturnType<typeof pc.createColors>
  readonly #err: ReturnType<typeof pc.createColors>

  constructor(io: Io, { json, color }: { readonly json: boolean; readonly color: ColorChoice }) {
    this.json = json
    this.#io = io
    this.#out = pc.createColors(hasColor(io.stdout, io.env, color))
    this.#err = pc.createColors(hasColor(io.stderr, io.env, color))
  }

  /** Writes one line of data. */
  line(text: string): void {
    this.#io.stdout.write(`${text}\n`)
  }

  /** Writes a line for programs. A `bigint` is a string, because numbers of that size do not survive every parser. */
  object(value: object): void {
    this.line(JSON.stringify(value, textOfBigint))
  }

  /** Says something to the person at the terminal; it is no data. */
  note(text: string): void {
    this.#io.stderr.write(`${text}\n`)
  }

  /** Warns the person at the terminal. */
  warn(text: string): void {
    this.note(`${this.#err.yellow('lease: warning:')} ${text}`)
  }

  /** Says why the command fails. */
  fail(message: string, hints: readonly string[] = []): void {
    this.note(`${this.#err.red('lease:')} ${message}`)
    for (const hint of hints) this.note(`  ${hint}`)
  }

  bold(text: string): string {
    return this.#out.bold(text)
  }

  dim(text: string): string {
    return this.#out.dim(text)
  }

  good(text: string): string {
    return this.#out.green(text)
  }

  bad(text: string): string {
    return this.#out.red(text)
  }

  doubtful(text: string): string {
    return this.#out.yellow(text)
  }

  /** Names and values below each other. */
  async fields(fields: readonly (readonly [name: string, value: string])[]): Promise<void> {
    const width = Math.max(...fields.map(([name]) => name.length))
    for (const [name, value] of fields) this.line(`${this.dim(name.padEnd(width))}  ${value}`)
    await this.#io.stdout.drained()
  }

  /** Writes a table. On a terminal it fits the width; in a pipe nothing is cut. */
  async table<T>(columns: readonly Column<T>[], rows: readonly T[]): Promise<void> {
    const widths = columns.map(({ title }) => title.length)
    // Each cell is made once: a hundred thousand rows are measured first, and then written.
    const cells = rows.map((row) => columns.map(({ of }) => of(row)))
    for (const row of cells) {
      for (let index = 0; index < row.length; index++) {
        const width = widthOf(row[index] as string)
        if (width > (widths[index] as number)) widths[index] = width
      }
    }
    const { isTTY, columns: wide = 80 } = this.#io.stdout
    if (isTTY) fit(columns, widths, wide)
    const lineOf = (row: readonly string[]): string => {
      let line = ''
      for (let index = 0; index < row.length; index++) {
        if (index > 0) line += '  '
        line += fitted(row[index] as string, widths[index] as number, columns[index]?.right === true)
      }
      return line.trimEnd()
    }
    this.line(this.bold(lineOf(columns.map(({ title }) => title))))
    for (let from = 0; from < cells.length; from += LINES_AT_ONCE) {
      this.line(
        cells
          .slice(from, from + LINES_AT_ONCE)
          .map(lineOf)
          .join('\n'),
      )
      await this.#io.stdout.drained()
    }
  }

  /** Writes many objects as one array, a line for each. They have no `bigint`: to look for one in each field takes longer than all the rest. */
  async array(rows: Iterable<object>): Promise<void> {
    let lines: string[] = []
    let isFirst = true
    const flush = async (): Promise<void> => {
      this.#io.stdout.write(lines.join(''))
      lines = []
      await this.#io.stdout.drained()
    }
    lines.push('[')
    for (const row of rows) {
      lines.push(`${isFirst ? '\n' : ',\n'}${JSON.stringify(row)}`)
      isFirst = false
      if (lines.length >= LINES_AT_ONCE) await flush()
    }
    lines.push(isFirst ? ']\n' : '\n]\n')
    await flush()
  }

  /** Clears the terminal, for a table that is written again and again. */
  clear(): void {
    if (this.#io.stdout.isTTY) this.#io.stdout.write('\u001B[H\u001B[2J')
  }
}

function textOfBigint(_key: string, part: unknown): unknown {
  return typeof part === 'bigint' ? String(part) : part
}

/** `--color` wins, then `NO_COLOR`, then `FORCE_COLOR`, then whether it is a terminal. */
function hasColor(sink: Sink, env: Io['env'], choice: ColorChoice): boolean {
  if (choice !== 'auto') return choice === 'always'
  if (env['NO_COLOR'] !== undefined && env['NO_COLOR'] !== '') return false
  const forced = env['FORCE_COLOR']
  if (forced !== undefined) return forced !== '0' && forced !== 'false'
  return sink.isTTY && env['TERM'] !== 'dumb'
}

/** Takes the width that is missing from the columns that yield first. */
function fit<T>(columns: readonly Column<T>[], widths: number[], wide: number): void {
  let missing = widths.reduce((sum, width) => sum + width, 0) + 2 * (widths.length - 1) - wide
  const order = columns.map(({ yields }, index) => ({ yields, index })).filter(({ yields }) => yields > 0)
  for (const { index } of order.toSorted((a, b) => b.yields - a.yields)) {
    if (missing <= 0) return
    const width = widths[index] ?? 0
    const title = columns[index]?.title.length ?? 0
    const less = Math.min(missing, Math.max(0, width - Math.max(NARROWEST, title)))
    widths[index] = width - less
    missing -= less
  }
}

/** Cut and padded to this width. */
function fitted(text: string, width: number, right: boolean): string {
  const own = widthOf(text)
  if (own > width) return `${cut(text, width - 1)}…`
  const units = width + text.length - own // in which strings are padded
  return right ? text.padStart(units) : text.padEnd(units)
}

function cut(text: string, width: number): string {
  return Array.from(text).slice(0, Math.max(0, width)).join('')
}

/** In characters; nearly all names are ASCII. */
function widthOf(text: string): number {
  return isAscii(text) ? text.length : Array.from(text).length
}

function isAscii(text: string): boolean {
  for (let index = 0; index < text.length; index++) if (text.charCodeAt(index) > 0x7e) return false
  return true
}

/** Nearly all values: this takes a tenth of a look at each character's category. */
const PRINTABLE = /^[ -~]*$/

/** A value in one line: what a holder has written must not move the cursor of a terminal. */
export function oneLine(text: string): string {
  if (PRINTABLE.test(text)) return text
  // eslint-disable-next-line no-control-regex
  return text.replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (char) => (char === '\n' || char === '\t' ? ' ' : '�'))
}

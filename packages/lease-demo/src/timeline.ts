/** The story on the terminal: when (since the first event), who, what. Lines break between words only. */
import pc from 'picocolors'
import { wrap } from './wrap.ts'

const colors = {
  good: 'green',
  bad: 'red',
  warn: 'yellow',
  quiet: 'gray',
} as const

export type Mood = keyof typeof colors

const workers = ['cyan', 'magenta', 'blue', 'green'] as const

/** Every worker is named after its colour. */
export type WorkerName = (typeof workers)[number]

/** What the timeline writes to: `process.stdout`, for example. */
export interface Output {
  write(text: string): unknown
  /** Whether a line can be rewritten there. */
  readonly isTTY?: boolean
  /** The width of the terminal. */
  readonly columns?: number
}

/** The width where it is not known, and the least for which lines are laid out. */
const COLUMNS = { usual: 80, least: 40 } as const
const WHO_WIDTH = 9
/** When, who. */
const WHAT_INDENT = 19
const TICK_MS = 250

export class Timeline {
  readonly #out: Output
  readonly #pc: ReturnType<typeof pc.createColors>
  readonly #columns: number
  #startMs: number | undefined
  #wait: { readonly text: string; readonly sinceMs: number; readonly tick: NodeJS.Timeout | undefined } | undefined

  /** `columns`: @default those of the output, else 80 */
  constructor(out: Output, options: { readonly color: boolean; readonly columns?: number | undefined }) {
    this.#out = out
    this.#pc = pc.createColors(options.color)
    this.#columns = Math.max(COLUMNS.least, options.columns ?? out.columns ?? COLUMNS.usual)
  }

  title(text: string): void {
    this.#print('\n')
    this.#paragraph(text, { paint: this.#pc.bold })
  }

  note(text: string): void {
    this.#paragraph(text, { paint: this.#pc.gray })
  }

  /** The last word on the books. */
  verdict(text: string, mood: Mood): void {
    this.#print('\n')
    this.#paragraph(text, { paint: (line) => this.#paint(this.#pc.bold(line), mood) })
  }

  /** A line that continues, when it is too long, below the end of its label. `label` is as wide as it looks. */
  entry(label: string, text: string, mood?: Mood): void {
    this.#paragraph(text, {
      label: mood === undefined ? label : this.#paint(label, mood),
      indent: label.length,
    })
  }

  /** Something that the story itself does. */
  act(text: string): void {
    this.#line('', text, this.#pc.bold)
  }

  /** Something that a worker did. */
  did(worker: WorkerName, text: string, mood?: Mood): void {
    const paint = mood === undefined ? undefined : (line: string): string => this.#paint(line, mood)
    this.#line(this.#pc[worker](worker.padEnd(WHO_WIDTH)), text, paint)
  }

  /**
   * Says what is waited for, until the next wait or `arrived`. On a terminal it is the last line and counts the seconds;
   * elsewhere one line is written at once.
   */
  waitFor(text: string): void {
    this.arrived()
    const sinceMs = performance.now()
    const tick = this.#out.isTTY === true ? setInterval(() => this.#showWait(), TICK_MS) : undefined
    tick?.unref()
    this.#wait = { text, sinceMs, tick }
    if (tick === undefined) this.#paragraph(`… ${text}`, { paint: this.#pc.gray, indent: 2 })
    else this.#showWait()
  }

  /** Ends the wait. */
  arrived(): void {
    if (this.#wait?.tick !== undefined) {
      clearInterval(this.#wait.tick)
      this.#out.write(CLEAR_LINE)
    }
    this.#wait = undefined
  }

  #showWait(): void {
    if (this.#wait === undefined) return
    const seconds = Math.floor((performance.now() - this.#wait.sinceMs) / 1000)
    const text = `… ${this.#wait.text}${seconds === 0 ? '' : ` (${seconds} s)`}`
    const [line = ''] = wrap(text, this.#columns - 1) // a line that the terminal breaks cannot be rewritten
    this.#out.write(`${CLEAR_LINE}${this.#pc.gray(line)}`)
  }

  #paint(text: string, mood: Mood): string {
    return this.#pc[colors[mood]](text)
  }

  #line(who: string, text: string, paint?: (line: string) => string): void {
    const nowMs = performance.now()
    const seconds = ((nowMs - (this.#startMs ??= nowMs)) / 1000).toFixed(2)
    const label = `${this.#pc.gray(`${seconds.padStart(6)} s`)}  ${who || ' '.repeat(WHO_WIDTH)}`
    this.#paragraph(text, { label, indent: WHAT_INDENT, paint })
  }

  #paragraph(text: string, layout: Layout): void {
    const { label = '', indent = 0, paint = (line: string): string => line } = layout
    const lines = wrap(text, this.#columns - indent).map(paint)
    const first = label === '' ? lines[0] : `${label}${lines[0]}`
    this.#print([first, ...lines.slice(1).map((line) => ' '.repeat(indent) + line)].map((line) => `${line}\n`).join(''))
  }

  /** Above the line that says what is waited for, if there is one. */
  #print(text: string): void {
    const waits = this.#wait?.tick !== undefined
    this.#out.write(waits ? `${CLEAR_LINE}${text}` : text)
    if (waits) this.#showWait()
  }
}

const CLEAR_LINE = '\r\u001B[2K'

interface Layout {
  /** Before the first line; as wide as the indent. */
  readonly label?: string
  /** Of the lines after the first. */
  readonly indent?: number
  readonly paint?: ((line: string) => string) | undefined
}

/** Colours where they can be seen and are wanted: https://no-color.org */
export function wantsColor(out: { readonly isTTY?: boolean }, env: NodeJS.ProcessEnv): boolean {
  if (env['NO_COLOR']) return false
  if (env['FORCE_COLOR'] !== undefined) return env['FORCE_COLOR'] !== '0'
  return out.isTTY === true && env['TERM'] !== 'dumb'
}

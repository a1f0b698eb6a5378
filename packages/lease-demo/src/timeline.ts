/** The story on the terminal: when (since the first event), who, what. */
import type { Writable } from 'node:stream'
import pc from 'picocolors'

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

const WHO_WIDTH = 9

export class Timeline {
  readonly #out: Writable
  readonly #pc: ReturnType<typeof pc.createColors>
  #startMs: number | undefined
  #firstToken: string | undefined

  constructor(out: Writable, options: { readonly color: boolean }) {
    this.#out = out
    this.#pc = pc.createColors(options.color)
  }

  title(text: string): void {
    this.#print(`\n${this.#pc.bold(text)}`)
  }

  note(text: string): void {
    for (const line of text.split('\n')) this.#print(this.#pc.gray(line))
  }

  /** Something that the story itself does. */
  act(text: string): void {
    this.#line('', this.#pc.bold(text))
  }

  /** Something that a worker did. */
  did(worker: WorkerName, text: string, mood?: Mood): void {
    this.#line(this.#pc[worker](worker.padEnd(WHO_WIDTH)), mood === undefined ? text : this.paint(text, mood))
  }

  line(text: string): void {
    this.#print(text)
  }

  paint(text: string, mood: Mood): string {
    return this.#pc[colors[mood]](text)
  }

  bold(text: string): string {
    return this.#pc.bold(text)
  }

  /** A fencing token, with the digits that it shares with the first one dimmed. */
  token(fencingToken: bigint): string {
    const digits = String(fencingToken)
    const first = (this.#firstToken ??= digits)
    let same = 0
    while (same < digits.length - 7 && digits[same] === first[same]) same++
    return this.#pc.dim(`#${digits.slice(0, same)}`) + digits.slice(same)
  }

  #line(who: string, text: string): void {
    const nowMs = performance.now()
    const seconds = ((nowMs - (this.#startMs ??= nowMs)) / 1000).toFixed(2)
    this.#print(`${this.#pc.gray(`${seconds.padStart(6)} s`)}  ${who || ' '.repeat(WHO_WIDTH)}${text}`)
  }

  #print(text: string): void {
    this.#out.write(`${text}\n`)
  }
}

/** Colours where they can be seen and are wanted: https://no-color.org */
export function wantsColor(out: { readonly isTTY?: boolean }, env: NodeJS.ProcessEnv): boolean {
  if (env['NO_COLOR']) return false
  if (env['FORCE_COLOR'] !== undefined) return env['FORCE_COLOR'] !== '0'
  return out.isTTY === true && env['TERM'] !== 'dumb'
}

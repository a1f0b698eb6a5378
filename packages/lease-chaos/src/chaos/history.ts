/**
 * The history of a run: a folder with `run.json` (what was run) and `history.ndjson` (one event a line). Lines are written as they arrive,
 * so a run that is killed loses at most the end of its last line.
 */
import { createReadStream, createWriteStream, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import type { WriteStream } from 'node:fs'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { StoreAddress } from '../connections.ts'
import { ANY, RUN, type ChaosEvent } from './event.ts'

/** What was run: enough to run it again. */
export interface RunSettings {
  readonly ground: string
  readonly kind: StoreAddress['kind']
  readonly nemeses: readonly string[]
  readonly seed: number
  readonly minutes: number
  readonly workers: number
  readonly leaseMs: number
  /** Of a negative control: its workers break promises. */
  readonly broken?: boolean | undefined
  /** Nemeses that the guarantees name as an exception. */
  readonly controls?: readonly string[] | undefined
  readonly commit: string
  /** Of Node and of the packages. */
  readonly versions: Readonly<Record<string, string>>
  readonly startedAt: string
}

/** What a folder contains. */
export interface History {
  readonly settings: RunSettings
  /** In the order of their instants. Of the samples of a term only the first and the last: the checks read no others. */
  readonly events: readonly ChaosEvent[]
  /** Lines that could not be read, in words: the last one of a run that was killed is one. */
  readonly damage: readonly string[]
}

const SETTINGS = 'run.json'
const EVENTS = 'history.ndjson'

/**
 * Makes a folder of this name that nobody else has: where there is one, of an earlier run or of one at the same time, `name-2` and so on.
 * So what is recorded is never written over.
 */
export function folderOfItsOwn(parent: string, name: string): string {
  mkdirSync(parent, { recursive: true })
  for (let number = 1; ; number++) {
    const folder = join(parent, number === 1 ? name : `${name}-${number}`)
    try {
      mkdirSync(folder)
      return folder
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
  }
}

/** Writes a history. */
export class HistoryWriter implements AsyncDisposable {
  readonly folder: string
  readonly #lines: WriteStream
  #count = 0

  /** @throws when the folder cannot be made */
  constructor(folder: string, settings: RunSettings) {
    this.folder = folder
    mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, SETTINGS), `${JSON.stringify(settings, null, 2)}\n`)
    this.#lines = createWriteStream(join(folder, EVENTS))
  }

  /** How many events there are. */
  get count(): number {
    return this.#count
  }

  write(event: ChaosEvent): void {
    this.#count++
    this.#lines.write(`${JSON.stringify(event)}\n`)
  }

  /** Resolves when all is in the file. */
  async close(): Promise<void> {
    if (this.#lines.closed) return
    this.#lines.end()
    await once(this.#lines, 'close')
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** What to read of a history, beside what concerns no lease. */
export interface Selection {
  /** Whether to read what concerns this lease; the leases among which one call chooses are one. @default all */
  readonly concerns?: (lease: string) => boolean
  /** Only what came after the faults. @default false */
  readonly sinceQuiet?: boolean
}

/** How many bytes the events of a history have. @throws an error of one line, when the folder has none */
export function sizeOfHistory(folder: string): number {
  readSettings(folder) // without them it is none
  const stats = statSync(join(folder, EVENTS), { throwIfNoEntry: false })
  if (stats === undefined) throw new Error(`${folder} has no ${EVENTS}`)
  return stats.size
}

/**
 * Reads a history again, line by line: what it takes of memory grows with the calls and terms that are selected, not with the samples.
 * @throws an error of one line, when the folder has none
 */
export async function readHistory(folder: string, selection: Selection = {}): Promise<History> {
  sizeOfHistory(folder)
  const settings = readSettings(folder)
  const file = join(folder, EVENTS)
  const isSelected = selector(selection)
  const events = new EventList()
  const damage: string[] = []
  let number = 0
  for await (const line of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
    number++
    const event = eventOf(line)
    if (event === undefined) damage.push(`line ${number} is no event: ${line.slice(0, 60)}`)
    else if (isSelected(event)) events.add(event)
  }
  return { settings, events: events.inOrder(), damage }
}

/** Takes the events in their order: an answer is selected with its call. */
function selector({ concerns = () => true, sinceQuiet = false }: Selection): (event: ChaosEvent) => boolean {
  let isOpen = !sinceQuiet
  const selected = new Set<string>()
  return ({ worker, what, detail, lease, call }) => {
    if (worker === RUN && what === 'phase' && detail === 'quiet') isOpen = true
    if (what === 'answered') return selected.delete(`${worker} ${call}`)
    if (lease === undefined || (worker === RUN && what !== 'stored')) return true
    const isSelected = isOpen && concerns(familyOf(lease))
    if (isSelected && what === 'sent') selected.add(`${worker} ${call}`)
    return isSelected
  }
}

/** The leases of `hold-any` have one family: the call names one, and its answer another. */
function familyOf(lease: string): string {
  return lease.startsWith(`${ANY}-`) ? ANY : lease
}

/** Collects the events that the checks read, and keeps each text once. */
class EventList {
  readonly #events: ChaosEvent[] = []
  readonly #texts = new Map<string, string>()
  /** The first and the last sample of each term in each worker. */
  readonly #samples = new Map<string, { readonly first: ChaosEvent; last?: ChaosEvent }>()

  add(event: ChaosEvent): void {
    const own = this.#withSharedTexts(event)
    if (own.what !== 'relied') this.#events.push(own)
    else this.#addSample(own)
  }

  inOrder(): readonly ChaosEvent[] {
    for (const { first, last } of this.#samples.values())
      this.#events.push(first, ...(last === undefined ? [] : [last]))
    this.#samples.clear()
    return this.#events.toSorted((a, b) => a.atMs - b.atMs)
  }

  #addSample(event: ChaosEvent): void {
    const key = `${event.worker} ${event.holder} ${event.lease} ${event.token}`
    const samples = this.#samples.get(key)
    if (samples === undefined) this.#samples.set(key, { first: event })
    else samples.last = event
  }

  #withSharedTexts(event: ChaosEvent): ChaosEvent {
    const shared: Record<string, unknown> = {}
    for (const [name, value] of Object.entries(event)) {
      shared[name] = typeof value === 'string' ? this.#shared(value) : value
    }
    return shared as unknown as ChaosEvent
  }

  #shared(text: string): string {
    const known = this.#texts.get(text)
    if (known !== undefined) return known
    this.#texts.set(text, text)
    return text
  }
}

function readSettings(folder: string): RunSettings {
  let text: string
  try {
    text = readFileSync(join(folder, SETTINGS), 'utf8')
  } catch {
    throw new Error(`${folder} is not a history: it has no ${SETTINGS}`)
  }
  try {
    const settings = JSON.parse(text) as RunSettings
    if (typeof settings.ground === 'string' && typeof settings.seed === 'number') return settings
  } catch {
    // said below
  }
  throw new Error(`${join(folder, SETTINGS)} does not say what was run`)
}

/** undefined: not the whole of one. */
function eventOf(line: string): ChaosEvent | undefined {
  try {
    const event = JSON.parse(line) as Partial<ChaosEvent> | null
    const isEvent =
      typeof event?.worker === 'string' && typeof event.what === 'string' && typeof event.atMs === 'number'
    return isEvent ? (event as ChaosEvent) : undefined
  } catch {
    return undefined
  }
}

/** When a phase of the run began; undefined: it did not come to that. */
export function phaseAtMs({ events }: History, phase: string): number | undefined {
  return events.find(({ worker, what, detail }) => worker === RUN && what === 'phase' && detail === phase)?.atMs
}

/**
 * Draws the pause of a recorded run as an SVG: two workers, who holds the lease of the account, the balance, and time
 * from top to bottom. Every row is a recorded event. Distances between rows do not measure time: each row has its time.
 *
 *     cyan    magenta   lease   balance
 *      │                  ┃       75     holds the lease
 *      ┊         │        ┃              frozen
 *      ┊         │───────→┃              takes over
 *      ┊         │────────┃─────→ 50     writes
 *      │────────────────✗ ┃              its write is refused
 */
import type { Finding } from './books.ts'
import type { Recorded, Recording } from './recording.ts'
import type { WorkerName } from './timeline.ts'
import { wrap } from './wrap.ts'

/** Text on the background, in both versions: each at least 4.5 : 1 (WCAG 2.2, 1.4.3). A test computes it. */
export const palettes = {
  light: { paper: '#ffffff', ink: '#1f2328', quiet: '#59636e', cyan: '#0e7490', magenta: '#a21caf', blue: '#1d4ed8', green: '#15803d', good: '#15803d', bad: '#c0182b', frame: '#d1d9e0' },
  dark: { paper: '#0d1117', ink: '#e6edf3', quiet: '#9198a1', cyan: '#22d3ee', magenta: '#e879f9', blue: '#79a8ff', green: '#4ade80', good: '#4ade80', bad: '#ff7b72', frame: '#3d444d' },
} as const // prettier-ignore

type Paint = keyof (typeof palettes)['light']

export interface PictureOptions {
  /** Where it was played: `PostgreSQL`. */
  readonly store: string
  /** What the auditor found in the books afterwards. */
  readonly findings: readonly Finding[]
}

/** @throws when in this run no worker lost a lease while it was frozen */
export function draw(recording: Recording, { store, findings }: PictureOptions): string {
  const scene = sceneOf(recording)
  const rows = place(scene.rows)
  const heading = recording.guarded ? 'With the guard' : 'Without the guard'
  const verdict = verdictOf(findings)
  const end = (rows.at(-1)?.bottom ?? TOP) + 10
  const verdictLines = verdict.flatMap(({ holds, text }) =>
    wrap(`${holds ? '✓' : '✗'} ${text}`, VERDICT_CHARS).map((line) => ({ holds, line })),
  )
  const height = end + 26 + LINE * verdictLines.length
  const told = rows.map(({ atMs, worker, text }) => `${inSeconds(atMs)}: ${worker} ${text}.`)
  const story = [...told, ...verdict.map(({ text }) => `${text}.`)].join(' ')
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-labelledby="title desc">`,
    `<title id="title">${escaped(`${heading}: ${summaryOf(scene)}`)}</title>`,
    `<desc id="desc">${escaped(story)}</desc>`,
    `<style>${style()}</style>`,
    `<rect class="paper" x="0.5" y="0.5" width="${WIDTH - 1}" height="${height - 1}" rx="8"/>`,
    text(20, 30, 'ink title', heading),
    text(
      20,
      50,
      'quiet small',
      `Recorded on ${store}. Leases last ${recording.leaseMs / 1000} s. # is the fencing token.`,
    ),
    text(X.first, HEAD, `${scene.first} small middle strong`, scene.first),
    text(X.second, HEAD, `${scene.second} small middle strong`, scene.second),
    text(X.lease, HEAD, 'ink small middle', 'lease'),
    text(X.balance, HEAD, 'ink small middle', scene.account),
    ...tracks(scene, rows, end),
    ...rows.flatMap((row) => words(row)),
    `<line class="frame" x1="20" x2="${WIDTH - 20}" y1="${end}" y2="${end}"/>`,
    ...verdictLines.map(({ holds, line }, index) =>
      text(20, end + 24 + LINE * index, `${holds ? 'good' : 'bad'} strong`, line),
    ),
    '</svg>',
    '',
  ].join('\n')
}

const WIDTH = 560
const HEAD = 80
const TOP = 92
const LINE = 18
/** How much text fits, in the widest of the usual fonts. */
const TEXT_CHARS = 33
const VERDICT_CHARS = 60
const X = { time: 56, first: 84, second: 142, lease: 202, balance: 248, text: 278 } as const

/** What a row shows besides its text. */
type Mark =
  | 'claims'
  | 'checks'
  | 'freezes'
  | 'waits'
  | 'wakes'
  | 'sends'
  | 'writes'
  | 'overwrites'
  | 'refused'
  | 'learns'

interface Row {
  /** Since the first row. */
  readonly atMs: number
  readonly worker: WorkerName
  readonly mark: Mark
  readonly text: string
  /** The new balance, of a write. */
  readonly balance?: number
}

interface PlacedRow extends Row {
  readonly lines: readonly string[]
  readonly y: number
  readonly bottom: number
}

interface Scene {
  readonly account: string
  /** The frozen worker. */
  readonly first: WorkerName
  /** Who takes over. */
  readonly second: WorkerName
  /** Of the account, before all this. */
  readonly balance: number
  readonly rows: readonly Row[]
}

/** From the claim of the worker that is frozen until its order is done. */
function sceneOf({ events, tokens }: Recording): Scene {
  const frozenAt = events.findIndex(({ event }) => event.kind === 'frozen')
  const first = events[frozenAt]?.worker
  const isOf = (name: WorkerName | undefined) => (one: Recorded) => one.worker === name
  const before = events.slice(0, Math.max(0, frozenAt))
  const start = before.findLastIndex((one) => isOf(first)(one) && one.event.kind === 'idle') + 1
  const done = events.findIndex((one, index) => index > frozenAt && isOf(first)(one) && one.event.kind === 'idle')
  const during = events.slice(start, done === -1 ? undefined : done + 1)
  const accounts = during.flatMap(({ worker, event }) =>
    worker === first && event.kind === 'held' ? event.account : [],
  )
  const takeover = events
    .slice(frozenAt)
    .find(({ worker, event }) => worker !== first && event.kind === 'held' && accounts.includes(event.account))
  const check = during.find((one) => isOf(first)(one) && one.event.kind === 'writing')
  if (first === undefined || takeover?.event.kind !== 'held' || check?.event.kind !== 'writing') {
    throw new Error('no worker lost a lease in this run while it was frozen: there is nothing to draw')
  }
  const { account } = takeover.event
  const { order, next } = check.event
  const second = takeover.worker
  const startMs = during.find(isOf(first))?.atMs ?? 0
  const rows: Row[] = []
  let lapsed = false // of the first worker
  let frozen = false
  for (const { worker, event, atMs } of during) {
    if (worker !== first && worker !== second) continue
    const add = (mark: Mark, what: string, balance?: number): void => {
      rows.push({ atMs: atMs - startMs, worker, mark, text: what, ...(balance !== undefined && { balance }) })
    }
    const stale = worker === first && lapsed
    if (event.kind === 'held' && event.account === account) {
      if (worker === second && frozen) lapsed = true
      if (worker === first) lapsed = false
      const token = tokens.show(event.fencingToken)
      add(
        'claims',
        worker === second && frozen ? `takes over the lapsed lease (${token})` : `holds the lease (${token})`,
      )
    } else if (event.kind === 'denied' && event.account === account) add('waits', 'waits for the lease')
    else if (
      event.kind === 'writing' &&
      worker === first &&
      !frozen &&
      !lapsed &&
      rows.every(({ mark }) => mark !== 'freezes')
    ) {
      add('checks', `checks: held; will write ${event.next[account]}`)
    } else if (event.kind === 'frozen') {
      frozen = true
      add('freezes', 'is frozen before it writes')
    } else if (event.kind === 'woken') {
      frozen = false
      add('wakes', 'wakes up where it was')
    } else if (event.kind === 'sent' && stale) add('sends', `sends its write: ${next[account]}`)
    else if (event.kind === 'lost' && event.account === account) add('learns', 'learns of the loss')
    else if (event.kind === 'refused') add('refused', 'is refused: nothing written')
    else if (event.kind === 'moved') {
      const balance = event.next[account]
      add(stale ? 'overwrites' : 'writes', stale ? `overwrites the balance: ${balance}` : `writes ${balance}`, balance)
    }
  }
  const change = account === order.from ? -order.amount : order.amount
  return { account, first, second, balance: (next[account] ?? 0) - change, rows }
}

function summaryOf({ account, first, second, rows }: Scene): string {
  const end = rows.some(({ mark }) => mark === 'overwrites')
    ? `${first} wakes up and overwrites what ${second} wrote`
    : `${first} wakes up and its late write is refused`
  return `${first} is frozen while it holds the lease of ${account}, ${second} takes over, ${end}`
}

/** What is not well; when all is well, the first findings. */
function verdictOf(findings: readonly Finding[]): readonly Finding[] {
  const broken = findings.filter(({ holds }) => !holds)
  return broken.length > 0 ? broken.slice(0, 2) : findings.slice(0, 2)
}

function place(rows: readonly Row[]): readonly PlacedRow[] {
  let bottom = TOP
  let lastMs = 0
  return rows.map((row) => {
    const lines = wrap(`${row.worker} ${row.text}`, TEXT_CHARS)
    const y = bottom + 18 + (row.atMs - lastMs > 500 ? 40 : 0) // a long wait is seen
    bottom = y + LINE * (lines.length - 1) + 10
    lastMs = row.atMs
    return { ...row, lines, y, bottom }
  })
}

function words({ atMs, worker, mark, lines, y }: PlacedRow): readonly string[] {
  const paint = mark === 'refused' ? 'good' : mark === 'overwrites' ? 'bad' : 'ink'
  const strong = paint === 'ink' ? '' : ' strong'
  return [
    text(X.time, y + 4, 'quiet small end', inSeconds(atMs)),
    ...lines.map((line, index) => {
      const at = `x="${X.text}" y="${y + 5 + LINE * index}"`
      if (index > 0) return `<text ${at} class="${paint}${strong}">${escaped(line)}</text>`
      const rest = line.slice(worker.length)
      return `<text ${at} class="${paint}${strong}"><tspan class="${worker} strong">${worker}</tspan>${escaped(rest)}</text>`
    }),
  ]
}

function tracks(scene: Scene, rows: readonly PlacedRow[], end: number): readonly string[] {
  const xOf = (worker: WorkerName): number => (worker === scene.first ? X.first : X.second)
  const bottom = end - 8
  const freeze = rows.find(({ mark }) => mark === 'freezes')?.y ?? bottom
  const wake = rows.find(({ mark }) => mark === 'wakes')?.y ?? bottom
  const shapes = [
    bar(scene.first, X.first, TOP, freeze),
    `<line class="${scene.first} frozen" x1="${X.first}" x2="${X.first}" y1="${freeze}" y2="${wake}"/>`,
    bar(scene.first, X.first, wake, bottom),
    bar(scene.second, X.second, TOP, bottom),
    ...terms(rows, bottom),
    `<line class="quiet thin" x1="${X.balance}" x2="${X.balance}" y1="${TOP}" y2="${bottom}"/>`,
    chip(scene.balance, TOP + 18, 'ink'),
  ]
  let sentY: number | undefined
  for (const { worker, mark, y, balance } of rows) {
    const from = xOf(worker)
    const fromY = sentY ?? y
    if (mark === 'claims') shapes.push(arrow(worker, [from, y], [X.lease - 9, y]))
    else if (mark === 'waits') shapes.push(arrow('quiet', [from, y], [X.lease - 9, y], 'dashed'))
    else if (mark === 'sends') sentY = y
    else if (mark === 'refused') {
      shapes.push(arrow('bad', [from, fromY], [X.lease - 12, y]), cross(X.lease - 1, y))
      sentY = undefined
    } else if (mark === 'writes' || mark === 'overwrites') {
      const paint = mark === 'writes' ? worker : 'bad'
      shapes.push(arrow(paint, [from, mark === 'writes' ? y : fromY], [X.balance - 17, y]))
      shapes.push(chip(balance ?? 0, y, mark === 'writes' ? 'ink' : 'bad'))
      sentY = undefined
    }
    shapes.push(`<circle class="${worker}" cx="${from}" cy="${y}" r="4.5"/>`)
  }
  return shapes
}

/** Who holds the lease in the store: from a claim until the next one, or until the holder has written. */
function terms(rows: readonly PlacedRow[], bottom: number): readonly string[] {
  return rows.flatMap((row, index) => {
    if (row.mark !== 'claims') return []
    const over = rows
      .slice(index + 1)
      .find(({ mark, worker }) => mark === 'claims' || (mark === 'writes' && worker === row.worker))
    const to = over === undefined ? bottom : over.mark === 'claims' ? over.y - 14 : over.y + 12
    return `<rect class="${row.worker}" x="${X.lease - 7}" y="${row.y - 9}" width="14" height="${to - row.y + 9}" rx="4"/>`
  })
}

const bar = (paint: Paint, x: number, from: number, to: number): string =>
  `<line class="${paint} track" x1="${x}" x2="${x}" y1="${from}" y2="${to}"/>`

const chip = (balance: number, y: number, paint: Paint): string =>
  `<rect class="chip ${paint}" x="${X.balance - 16}" y="${y - 11}" width="32" height="22" rx="5"/>` +
  text(X.balance, y + 5, `${paint} middle strong`, String(balance))

const cross = (x: number, y: number): string =>
  `<circle class="paper" cx="${x}" cy="${y}" r="9"/><path class="bad stroke" d="M${x - 5} ${y - 5}l10 10m0 -10l-10 10"/>`

function arrow(paint: Paint, [x, y]: Point, [toX, toY]: Point, kind = ''): string {
  const length = Math.hypot(toX - x, toY - y)
  const [dx, dy] = [(toX - x) / length, (toY - y) / length]
  const corner = (side: number): string =>
    `${round(toX - 8 * dx - side * 4.5 * dy)} ${round(toY - 8 * dy + side * 4.5 * dx)}`
  return (
    `<path class="${paint} stroke ${kind}" d="M${x} ${y}L${round(toX - 6 * dx)} ${round(toY - 6 * dy)}"/>` +
    `<path class="${paint}" d="M${toX} ${toY}L${corner(1)}L${corner(-1)}Z"/>`
  )
}

type Point = readonly [x: number, y: number]

const round = (length: number): number => Number(length.toFixed(1))

const text = (x: number, y: number, classes: string, words: string): string =>
  `<text x="${x}" y="${y}" class="${classes}">${escaped(words)}</text>`

const inSeconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`

const escaped = (words: string): string =>
  words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')

function style(): string {
  const painted = (theme: keyof typeof palettes): string => {
    const { paper, frame, ...inks } = palettes[theme]
    const classes = Object.entries(inks).map(
      ([name, color]) =>
        `.${name}{fill:${color}}.${name}.stroke,.${name}.track,.${name}.frozen,.${name}.thin,.${name}.chip{stroke:${color}}`,
    )
    return `${classes.join('')}.paper{fill:${paper};stroke:${frame}}.chip,.chip.ink,.chip.bad{fill:${paper}}.frame{stroke:${frame}}`
  }
  return [
    "text{font:14px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}",
    '.title{font-size:18px;font-weight:600}.small{font-size:12px}.strong{font-weight:600}',
    '.middle{text-anchor:middle}.end{text-anchor:end}',
    'path.stroke{fill:none;stroke-width:2}.track{stroke-width:5;stroke-linecap:round}.thin{stroke-width:1}',
    '.frozen{stroke-width:5;stroke-linecap:round;stroke-dasharray:0 10}.dashed{stroke-dasharray:4 3}.chip{stroke-width:1.5}',
    painted('light'),
    `@media (prefers-color-scheme:dark){${painted('dark')}}`,
  ].join('\n')
}

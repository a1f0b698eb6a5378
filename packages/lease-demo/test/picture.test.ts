import { expect } from 'chai'
import type { Finding } from '#src/books.ts'
import { draw, palettes } from '#src/picture.ts'
import type { FromWorker } from '#src/protocol.ts'
import type { Accident, Recorded, Recording } from '#src/recording.ts'
import type { WorkerName } from '#src/timeline.ts'
import { TokenScale } from '#src/tokens.ts'

const late = { from: 'alice', to: 'bob', amount: 30 }
const between = { from: 'alice', to: 'carol', amount: 25 }
const stale = { alice: 45, bob: 120 }

type Step = readonly [atMs: number, worker: WorkerName, event: FromWorker | Accident]

const held = (account: string, fencingToken: bigint): FromWorker => ({ kind: 'held', account, fencingToken })

/** What goes before the pause, and what others do at that time: not drawn. */
const ordinary: readonly Step[] = [
  [0, 'cyan', held('alice', 1001n)],
  [50, 'cyan', { kind: 'moved', order: late, next: { alice: 75 }, late: false }],
  [60, 'cyan', { kind: 'idle' }],
  [70, 'magenta', { kind: 'idle' }],
]

const pause: readonly Step[] = [
  [100, 'cyan', held('alice', 1007n)],
  [110, 'cyan', held('bob', 1008n)],
  [120, 'cyan', { kind: 'writing', order: late, next: stale }],
  [121, 'cyan', { kind: 'atGate' }],
  [130, 'cyan', { kind: 'frozen' }],
  [140, 'magenta', { kind: 'denied', account: 'alice', by: 'cyan' }],
  [2200, 'magenta', held('alice', 1009n)],
  [2210, 'magenta', held('carol', 1010n)],
  [2220, 'magenta', { kind: 'writing', order: between, next: { alice: 50, carol: 140 } }],
  [2230, 'magenta', { kind: 'sent' }],
  [2300, 'magenta', { kind: 'moved', order: between, next: { alice: 50, carol: 140 }, late: false }],
  [2310, 'magenta', { kind: 'idle' }],
  [2320, 'cyan', { kind: 'woken' }],
  [2330, 'cyan', { kind: 'sent' }],
  [2340, 'cyan', { kind: 'lost', account: 'alice', reason: 'expired' }],
  [2340, 'cyan', { kind: 'lost', account: 'bob', reason: 'expired' }],
]

const refused: readonly Step[] = [
  [2350, 'cyan', { kind: 'refused', order: late, message: 'not held' }],
  [2360, 'cyan', held('alice', 1011n)],
  [2370, 'cyan', { kind: 'writing', order: late, next: { alice: 20, bob: 120 } }],
  [2380, 'cyan', { kind: 'sent' }],
  [2400, 'cyan', { kind: 'moved', order: late, next: { alice: 20, bob: 120 }, late: false }],
  [2410, 'cyan', { kind: 'idle' }],
]

const overwritten: readonly Step[] = [
  [2350, 'cyan', { kind: 'moved', order: late, next: stale, late: true }],
  [2360, 'cyan', { kind: 'idle' }],
]

function recordingOf(guarded: boolean, steps: readonly Step[]): Recording {
  const events = steps.map(([atMs, worker, event]): Recorded => ({ atMs, worker, event }))
  return { guarded, leaseMs: 2000, tokens: new TokenScale(1000n), events }
}

const well: readonly Finding[] = [{ holds: true, text: 'the money is all there: 400' }]
const broken: readonly Finding[] = [
  { holds: true, text: 'this holds' },
  { holds: false, text: 'alice has 45 & its entries say <20>' },
]

const withGuard = draw(recordingOf(true, [...ordinary, ...pause, ...refused]), { store: 'PostgreSQL', findings: well })
const without = draw(recordingOf(false, [...ordinary, ...pause, ...overwritten]), { store: 'etcd', findings: broken })

/** The words of an element, without markup inside it. */
function textsOf(svg: string, element: string): readonly string[] {
  return Array.from(svg.matchAll(new RegExp(`<${element}[^>]*>(.*?)</${element}>`, 'gs')), ([, inner = '']) =>
    inner.replaceAll(/<[^>]*>/g, ''),
  )
}

const common = [
  '0.00 s: cyan holds the lease (#7).',
  '0.02 s: cyan checks: held; will write 45.',
  '0.03 s: cyan is frozen before it writes.',
  '0.04 s: magenta waits for the lease.',
  '2.10 s: magenta takes over the lapsed lease (#9).',
  '2.20 s: magenta writes 50.',
  '2.22 s: cyan wakes up where it was.',
  '2.23 s: cyan sends its write: 45.',
  '2.24 s: cyan learns of the loss.',
]

/** The balances that the picture shows, from top to bottom, and how each is painted. */
function balances(svg: string): readonly string[] {
  return Array.from(
    svg.matchAll(/class="chip (\w+)".*?<text[^>]*>(\d+)</g),
    ([, paint, balance]) => `${balance} ${paint}`,
  )
}

describe('the picture of a run', () => {
  it('tells every event of the pause to screen readers, with its time, and nothing else', () => {
    expect(textsOf(withGuard, 'desc')).to.deep.equal([
      [
        ...common,
        '2.25 s: cyan is refused: nothing written.',
        '2.26 s: cyan holds the lease (#11).',
        '2.30 s: cyan writes 20.',
        'the money is all there: 400.',
      ].join(' '),
    ])
    expect(textsOf(without, 'desc')).to.deep.equal([
      [...common, '2.25 s: cyan overwrites the balance: 45.', 'alice has 45 &amp; its entries say &lt;20&gt;.'].join(
        ' ',
      ),
    ])
  })

  it('has a row with the same words for each of them', () => {
    for (const svg of [withGuard, without]) {
      const drawn = textsOf(svg, 'text').join(' ')
      const [told = ''] = textsOf(svg, 'desc')
      for (const row of told.matchAll(/(\d+\.\d\d s): (\w+ .*?)\.(?= |$)/g)) {
        expect(drawn).to.include(row[1])
        expect(drawn).to.include(row[2])
      }
    }
  })

  it('has a title that says what happened, where and with which leases', () => {
    const start = 'cyan is frozen while it holds the lease of alice, magenta takes over, cyan wakes up and'
    expect(textsOf(withGuard, 'title')).to.deep.equal([`With the guard: ${start} its late write is refused`])
    expect(textsOf(without, 'title')).to.deep.equal([`Without the guard: ${start} overwrites what magenta wrote`])
    expect(withGuard).to.include('Recorded on PostgreSQL. Leases last 2 s.')
    expect(without).to.include('Recorded on etcd. Leases last 2 s.')
  })

  it('shows the balances: the refused write is not among them, the one that overwrote is marked', () => {
    expect(balances(withGuard)).to.deep.equal(['75 ink', '50 ink', '20 ink'])
    expect(balances(without)).to.deep.equal(['75 ink', '50 ink', '45 bad'])
  })

  it('shows each term of the lease, in the colour of its holder', () => {
    const terms = (svg: string): readonly (string | undefined)[] =>
      Array.from(svg.matchAll(/<rect class="(\w+)" x="\d+" y="[\d.]+" width="14"/g), ([, holder]) => holder)
    expect(terms(withGuard)).to.deep.equal(['cyan', 'magenta', 'cyan'])
    expect(terms(without)).to.deep.equal(['cyan', 'magenta'])
  })

  it('is well-formed XML', () => {
    for (const svg of [withGuard, without]) {
      const open: string[] = []
      for (const [, slash, name = '', rest = ''] of svg.matchAll(/<(\/?)([a-z]+)([^>]*)>/g)) {
        if (slash === '/') expect(open.pop()).to.equal(name)
        else if (!rest.endsWith('/')) open.push(name)
      }
      expect(open).to.deep.equal([])
      expect(svg.replaceAll(/<\/?[a-z]+(?: [a-zA-Z0-9:-]+="[^"<]*")*\/?>/g, '')).not.to.match(/[<>]|&(?!amp;|lt;|gt;)/)
    }
  })

  it('is not drawn from a run in which nobody took over', () => {
    const steps = pause.filter(([, , event]) => event.kind !== 'held')
    expect(() => draw(recordingOf(true, steps), { store: 'Redis', findings: well })).to.throw('nothing to draw')
    expect(() => draw(recordingOf(true, []), { store: 'Redis', findings: well })).to.throw('nothing to draw')
  })

  for (const [theme, { paper, frame: _frame, ...inks }] of Object.entries(palettes)) {
    it(`has enough contrast in its ${theme} version (4.5 : 1)`, () => {
      for (const [name, ink] of Object.entries(inks)) expect(contrast(ink, paper), name).to.be.at.least(4.5)
    })
  }
})

/** WCAG 2.2: contrast ratio. */
function contrast(one: string, other: string): number {
  const [darker = 0, lighter = 0] = [luminance(one), luminance(other)].toSorted((a, b) => a - b)
  return (lighter + 0.05) / (darker + 0.05)
}

function luminance(color: string): number {
  const [red = 0, green = 0, blue = 0] = [1, 3, 5].map((at) => {
    const part = Number.parseInt(color.slice(at, at + 2), 16) / 255
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
  })
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue
}

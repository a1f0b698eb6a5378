/** The leases of a namespace: one page of them, as the server filtered and sorted it. */
import { Countdown, everyTick, grouped, h, inWords, serverNow, setAttribute, setText } from './dom.js'
import { live } from './live.js'

/** @import { Page, LeaseRow } from '../snapshot.ts' */
/** @import { Host } from './app.js' */

const VIEWS = /** @type {const} */ ([
  ['all', 'All'],
  ['longest', 'Held longest'],
  ['expiring', 'Expires soon'],
  ['pinned', 'Pinned'],
])

/** What the columns are called, and by what the server sorts them. */
const COLUMNS = /** @type {const} */ ([
  ['Lease', 'lease'],
  ['Holder', 'holder'],
  ['Held for', 'since'],
  ['Expires in', 'expires'],
  ['Pinned by', undefined],
  ['Fencing token', 'token'],
])

const SIZE = 50
/** How long after a keystroke the filter is sent. */
const TYPING_MS = 200

/**
 * Shows the list. Returns what ends it.
 *
 * @param {Host} host
 */
export function showList(host) {
  const { about, params } = host
  const view = params.get('view') ?? 'all'
  const usual = view === 'longest' ? 'since' : view === 'expiring' ? 'expires' : 'lease'
  const sort = params.get('sort') ?? usual
  const isDescending = params.get('order') === 'descending'
  const wantsValues = about.showValues && params.get('values') === 'true'

  /** @param {Record<string, string | undefined>} changes */
  const go = (changes, replace = false) => host.go({ page: undefined, ...changes }, replace)

  const filter = h('input', {
    type: 'search',
    id: 'filter',
    class: 'filter',
    placeholder: 'Filter by lease, holder or pin',
    value: params.get('filter') ?? '',
    autocomplete: 'off',
    spellcheck: false,
    'aria-label': 'Filter by lease, holder or pin',
    'aria-keyshortcuts': '/',
  })
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let typing
  filter.addEventListener('input', () => {
    clearTimeout(typing)
    typing = setTimeout(() => go({ filter: filter.value || undefined }, true), TYPING_MS)
  })

  const tabs = h(
    'nav',
    { class: 'tabs', 'aria-label': 'Views' },
    ...VIEWS.map(([name, title]) =>
      host.link(
        { view: name === 'all' ? undefined : name, sort: undefined, order: undefined, page: undefined },
        title,
        {
          'aria-current': name === view ? 'page' : undefined,
        },
      ),
    ),
  )
  const values = about.showValues
    ? h(
        'label',
        { class: 'toggle' },
        h('input', {
          type: 'checkbox',
          checked: wantsValues,
          change: () => go({ values: wantsValues ? undefined : 'true' }),
        }),
        'Show values',
      )
    : undefined

  const columns = wantsValues ? [...COLUMNS, /** @type {const} */ (['Value', undefined])] : COLUMNS
  const head = h(
    'tr',
    {},
    ...columns.map(([title, key]) => {
      if (key === undefined) return h('th', { scope: 'col' }, title)
      const isSorted = key === sort
      const direction = isDescending ? 'descending' : 'ascending'
      const next = isSorted && !isDescending ? 'descending' : undefined
      return h(
        'th',
        { scope: 'col', 'aria-sort': isSorted ? direction : undefined },
        h('button', { type: 'button', class: 'sort', click: () => go({ sort: key, order: next }) }, title),
      )
    }),
  )
  const body = h('tbody')
  const empty = h('p', { class: 'empty', hidden: true })
  const count = h('p', { class: 'count', role: 'status' }, 'Reading…')
  const pager = h('nav', { class: 'pager', 'aria-label': 'Pages' })
  const table = h('table', { class: 'leases', hidden: true }, h('thead', {}, head), body)
  host.main.replaceChildren(
    h('div', { class: 'toolbar' }, tabs, h('div', { class: 'tools' }, values, filter)),
    count,
    h('div', { class: 'card' }, table, empty),
    pager,
  )

  /** @type {Map<string, Row>} */
  let rows = new Map()
  /** @param {Partial<Page>} page */
  const update = (page) => {
    if (page.rows === undefined) return
    const { pages = 1, page: number = 1, matching = 0, held = 0 } = page
    /** @type {Map<string, Row>} */
    const next = new Map()
    for (const row of page.rows) {
      const shown = rows.get(row.lease) ?? new Row(row.lease, host, wantsValues)
      shown.update(row)
      next.set(row.lease, shown)
    }
    rows = next
    place(
      body,
      [...rows.values()].map(({ element }) => element),
    )
    const filtered = params.get('filter') !== null || view !== 'all'
    setText(
      count,
      filtered ? `${grouped(matching)} of ${grouped(held)} held leases match` : `${grouped(held)} held leases`,
    )
    table.hidden = page.rows.length === 0
    empty.hidden = page.rows.length > 0
    setText(empty, filtered ? 'No lease matches.' : 'No lease is held.')
    pager.replaceChildren(...pagesOf(host, number, pages, matching))
  }
  /** @param {'prev' | 'next'} rel */
  const turn = (rel) => {
    const link = pager.querySelector(`a[rel=${rel}]`)
    if (link instanceof HTMLElement) link.click()
  }
  host.keys({
    '/': () => filter.focus(),
    '[': () => turn('prev'),
    ']': () => turn('next'),
    j: () => moveFocus(body, 1),
    k: () => moveFocus(body, -1),
    ArrowDown: () => moveFocus(body, 1),
    ArrowUp: () => moveFocus(body, -1),
  })

  const wanted = new URLSearchParams({ namespace: host.namespace, view, sort, size: String(SIZE) })
  for (const name of ['filter', 'order', 'page', 'values']) {
    const value = params.get(name)
    if (value !== null) wanted.set(name, value)
  }
  const endTicks = everyTick(() => {
    for (const row of rows.values()) row.tick()
  })
  const endLive = live({
    path: '/api/leases',
    params: wanted,
    onState: update,
    onConnection: host.connection,
    onMissing: () => {
      host.main.replaceChildren(h('p', { class: 'empty' }, `There is no namespace "${host.namespace}" here.`))
    },
  })
  return () => {
    clearTimeout(typing)
    endTicks()
    endLive()
  }
}

/** One lease, whose elements stay the same from state to state, so that the focus does not jump. */
class Row {
  #holder = h('td', { 'data-label': 'Holder', class: 'name' })
  #since = h('td', { 'data-label': 'Held for', class: 'number' })
  #countdown = new Countdown()
  #pins = h('td', { 'data-label': 'Pinned by', class: 'name pins' })
  #token = h('td', { 'data-label': 'Fencing token', class: 'number token' })
  #value
  /** @type {LeaseRow | undefined} */
  #row

  /**
   * @param {string} lease
   * @param {Host} host
   * @param {boolean} wantsValues
   */
  constructor(lease, host, wantsValues) {
    this.#value = wantsValues ? h('td', { 'data-label': 'Value', class: 'value' }) : undefined
    this.element = h(
      'tr',
      {},
      h('th', { scope: 'row', class: 'name' }, host.link({ lease }, lease, { class: 'lease' })),
      this.#holder,
      this.#since,
      h('td', { 'data-label': 'Expires in', class: 'number' }, this.#countdown.element),
      this.#pins,
      this.#token,
      this.#value,
    )
  }

  /** @param {LeaseRow} row */
  update(row) {
    this.#row = row
    const isVacant = row.holder === undefined
    setAttribute(this.element, 'data-vacant', isVacant ? '' : undefined)
    setText(this.#holder, isVacant ? 'vacant' : `${row.holder}${row.weight === undefined ? '' : ` × ${row.weight}`}`)
    setText(this.#pins, row.pinnedBy.length === 0 ? '–' : row.pinnedBy.join(', '))
    setAttribute(this.#pins, 'data-pinned', row.pinnedBy.length === 0 ? undefined : '')
    setText(this.#token, row.fencingToken ?? '–')
    if (this.#value !== undefined) setText(this.#value, row.value ?? '–')
    this.#countdown.set(row.expiresMs, row.pinnedBy.length > 0)
    this.tick()
  }

  tick() {
    const { holder, sinceMs } = this.#row ?? {}
    const age = sinceMs === undefined ? 'unknown' : inWords(Math.max(0, serverNow() - sinceMs))
    setText(this.#since, holder === undefined ? '–' : age)
    this.#countdown.tick()
  }
}

/**
 * Makes these the children, in this order, and moves only what is not in its place.
 *
 * @param {Element} parent
 * @param {readonly Element[]} children
 */
function place(parent, children) {
  const wanted = new Set(children)
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove()
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null)
  })
}

/**
 * @param {Element} body
 * @param {1 | -1} step
 */
function moveFocus(body, step) {
  const links = /** @type {HTMLElement[]} */ ([...body.querySelectorAll('a.lease')])
  const at = links.indexOf(/** @type {HTMLElement} */ (document.activeElement))
  const next = at === -1 ? (step === 1 ? 0 : links.length - 1) : at + step
  links[Math.max(0, Math.min(links.length - 1, next))]?.focus()
}

/**
 * @param {Host} host
 * @param {number} page
 * @param {number} pages
 * @param {number} matching
 * @returns {Node[]}
 */
function pagesOf(host, page, pages, matching) {
  if (pages <= 1) return []
  const range = `${grouped((page - 1) * SIZE + 1)}–${grouped(Math.min(page * SIZE, matching))} of ${grouped(matching)}`
  /** @param {number} number @param {string} title @param {string} rel */
  const to = (number, title, rel) => {
    if (number < 1 || number > pages) return h('span', { class: 'button', 'aria-disabled': 'true' }, title)
    return host.link({ page: number === 1 ? undefined : String(number) }, title, { class: 'button', rel })
  }
  return [to(page - 1, '‹ Previous', 'prev'), h('span', { class: 'range' }, range), to(page + 1, 'Next ›', 'next')]
}

/** Builds elements and words. Text is always set as text, so no name of a lease can become markup. */

/** Where the console is mounted, without a slash at its end. */
export const base = document.documentElement.dataset['base'] ?? ''

/**
 * Makes an element. A function is a listener, `class`, `data-…` and `aria-…` are attributes, other properties are set on the element.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [properties]
 * @param {...(Node | string | undefined)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === 'function') element.addEventListener(name, /** @type {EventListener} */ (value))
    else if (/^(class|role|for|colspan|data-|aria-)/.test(name))
      setAttribute(element, name, /** @type {string} */ (value))
    else Object.assign(element, { [name]: value })
  }
  element.append(...children.filter((child) => child !== undefined))
  return element
}

/**
 * Sets or, for undefined, removes an attribute; touches nothing that is as wanted.
 *
 * @param {Element} element
 * @param {string} name
 * @param {string | undefined} value
 */
export function setAttribute(element, name, value) {
  if (value === undefined) element.removeAttribute(name)
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value)
}

/**
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/** How far the server's wall clock is ahead of this page's monotonic clock, in milliseconds. The clock of the machine may be wrong. */
let offsetMs = Date.now() - performance.now()

/** @param {number} serverMs what the server's clock showed when it sent an answer */
export function setServerTime(serverMs) {
  offsetMs = serverMs - performance.now()
}

/** The server's wall clock, about: milliseconds since the epoch. */
export function serverNow() {
  return performance.now() + offsetMs
}

const UNITS = /** @type {const} */ ([
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['min', 60_000],
  ['s', 1000],
])

/**
 * Two units at most: `12 s`, `4 min 10 s`, `3 d 2 h`.
 *
 * @param {number} ms
 */
export function inWords(ms) {
  const first = UNITS.findIndex(([, unitMs]) => ms >= unitMs)
  if (first === -1) return '0 s'
  const [name, unitMs] = UNITS[first] ?? UNITS[3]
  const [nextName, nextMs] = UNITS[first + 1] ?? [undefined, 1]
  const rest = Math.floor((ms % unitMs) / nextMs)
  return `${Math.floor(ms / unitMs)} ${name}${nextName === undefined || rest === 0 ? '' : ` ${rest} ${nextName}`}`
}

/** @param {number} ms milliseconds since the epoch */
export function timeOfDay(ms) {
  return new Date(ms).toLocaleTimeString(undefined, { hour12: false })
}

/** @param {number} ms milliseconds since the epoch */
export function dayAndTime(ms) {
  return new Date(ms).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium', hourCycle: 'h23' })
}

/** @param {number} number */
export function grouped(number) {
  return number.toLocaleString('en')
}

/** @type {Set<() => void>} */
const counting = new Set()
setInterval(() => {
  for (const update of counting) update()
}, 250)

/**
 * Calls back a few times a second, for countdowns. Returns what ends that.
 *
 * @param {() => void} update
 */
export function everyTick(update) {
  counting.add(update)
  return () => void counting.delete(update)
}

/**
 * How long a lease is still valid, as a text and a bar: the bar is full at the longest time that was seen.
 */
export class Countdown {
  #text = h('span', { class: 'left' })
  #bar = h('span', { class: 'fill' })
  element = h(
    'span',
    { class: 'countdown' },
    this.#text,
    h('span', { class: 'track', 'aria-hidden': 'true' }, this.#bar),
  )
  #longestMs = 1
  /** @type {number | undefined} */
  #expiresMs
  #isPinned = false

  /**
   * @param {number | undefined} expiresMs
   * @param {boolean} isPinned
   */
  set(expiresMs, isPinned) {
    this.#expiresMs = expiresMs
    this.#isPinned = isPinned
    this.tick()
  }

  tick() {
    if (this.#expiresMs === undefined) {
      setText(this.#text, '–')
      setAttribute(this.element, 'data-state', 'none')
      return
    }
    const leftMs = Math.max(0, this.#expiresMs - serverNow())
    this.#longestMs = Math.max(this.#longestMs, leftMs)
    const isPast = leftMs === 0
    setText(this.#text, isPast ? (this.#isPinned ? 'kept by its pin' : 'now') : inWords(leftMs))
    this.#bar.style.width = `${Math.round((100 * leftMs) / this.#longestMs)}%`
    const state = this.#isPinned ? 'pinned' : leftMs < Math.max(3000, this.#longestMs / 5) ? 'soon' : 'good'
    setAttribute(this.element, 'data-state', state)
  }
}

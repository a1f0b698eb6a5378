/**
 * Keeps a view up to date: by server-sent events, and by polling where these do not get through. Each event is a whole state, so whatever
 * was missed does not matter. A page that nobody sees keeps no connection.
 */
import { base, setServerTime } from './dom.js'

/**
 * @typedef {object} Pulse
 * @property {number} nowMs
 * @property {number} [readMs] when the store was read last
 * @property {string} [trouble] why the state may be out of date
 */

/** @typedef {'connecting' | 'live' | 'polling' | 'offline'} Connection */

/**
 * @typedef {object} LiveView
 * @property {string} path of the state, for polling
 * @property {URLSearchParams} params
 * @property {(state: any) => void} onState
 * @property {(connection: Connection, pulse: Pulse | undefined) => void} onConnection
 * @property {(message: string) => void} onMissing there is no such view
 */

const POLL_MS = 3000
/** Longer than the longest pause between two reads of the server. */
const SILENCE_MS = 45_000
const TRY_EVENTS_AGAIN_MS = 30_000

/**
 * Begins. Returns what ends it.
 *
 * @param {LiveView} view
 */
export function live({ path, params, onState, onConnection, onMissing }) {
  /** @type {EventSource | undefined} */
  let source
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer
  /** @type {Pulse | undefined} */
  let pulse
  let over = false

  /** @param {Pulse} news @param {Connection} connection */
  const heard = (news, connection) => {
    pulse = { nowMs: news.nowMs, ...pick(news) }
    setServerTime(news.nowMs)
    onConnection(connection, pulse)
  }

  const rest = () => {
    source?.close()
    source = undefined
    clearTimeout(timer)
  }

  const listen = () => {
    rest()
    const own = (source = new EventSource(`${base}/events?${params}`))
    const expectNews = () => {
      clearTimeout(timer)
      timer = setTimeout(() => poll(TRY_EVENTS_AGAIN_MS), SILENCE_MS)
    }
    expectNews()
    own.addEventListener('state', (/** @type {MessageEvent<string>} */ { data }) => {
      expectNews()
      const state = JSON.parse(data)
      heard(state, 'live')
      onState(state)
    })
    own.addEventListener('pulse', (/** @type {MessageEvent<string>} */ { data }) => {
      expectNews()
      heard(JSON.parse(data), 'live')
    })
    own.addEventListener('error', () => {
      if (source !== own) return
      onConnection('connecting', pulse)
      // It reconnects by itself; an answer such as 404 or 503 ends it for good.
      if (own.readyState === EventSource.CLOSED) void poll(TRY_EVENTS_AGAIN_MS)
      else {
        clearTimeout(timer)
        timer = setTimeout(() => poll(TRY_EVENTS_AGAIN_MS), 2 * POLL_MS)
      }
    })
  }

  /** @param {number} leftMs until the next try with events */
  const poll = async (leftMs) => {
    rest()
    try {
      const response = await fetch(`${base}${path}?${params}`)
      const state = await response.json()
      if (over) return
      if (response.status === 404) onMissing(state.error)
      else if (typeof state.nowMs !== 'number') onConnection('offline', pulse)
      else {
        heard({ ...state, trouble: state.trouble ?? state.error }, 'polling')
        if (response.ok) onState(state)
      }
    } catch {
      if (!over) onConnection('offline', pulse)
    }
    if (over || document.hidden) return
    timer = setTimeout(() => (leftMs <= 0 ? listen() : void poll(leftMs - POLL_MS)), POLL_MS)
  }

  const onVisible = () => {
    if (document.hidden) rest()
    else listen()
  }
  document.addEventListener('visibilitychange', onVisible)
  onConnection('connecting', undefined)
  listen()
  return () => {
    over = true
    rest()
    document.removeEventListener('visibilitychange', onVisible)
  }
}

/** @param {Pulse} news */
function pick({ readMs, trouble }) {
  return { ...(readMs !== undefined && { readMs }), ...(trouble !== undefined && { trouble }) }
}

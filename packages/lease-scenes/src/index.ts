export { managed, outages, overAccident, unheard, type Way } from './outages.ts'
export {
  caught,
  claim,
  eventually,
  expire,
  extend,
  grant,
  newCall,
  pin,
  readOne,
  release,
  settle,
  sleep,
  succeeds,
  unique,
  unpin,
} from './words.ts'

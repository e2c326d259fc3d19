//! What phones read off a screen.

use std::fmt::Write as _;

use maud::{Markup, html};
use qrcode::{Color, EcLevel, QrCode};

/// Modules of nothing around it (ISO/IEC 18004, 6.3.8).
const MARGIN: usize = 4;

/// A QR code of some text; nothing if it is longer than any holds. Black on white in the dark too: not every reader takes the reverse.
pub(super) fn code(text: &str, title: &str) -> Markup {
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::M) else {
        return html! {};
    };
    let width = code.width();
    let side = width.saturating_add(2 * MARGIN);
    let mut path = String::new();
    for (at, colour) in code.to_colors().into_iter().enumerate() {
        if colour == Color::Dark {
            let (x, y) = (at % width + MARGIN, at / width + MARGIN);
            // Writing to a string does not fail.
            let _ = write!(path, "M{x} {y}h1v1h-1z");
        }
    }
    html! {
        svg .qr role="img" aria-label=(title) viewBox=(format!("0 0 {side} {side}")) shape-rendering="crispEdges" {
            rect width=(side) height=(side) fill="#fff" {}
            path d=(path) fill="#000" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the picture as a phone would, from the page's own markup.
    #[test]
    fn a_reader_reads_what_was_written() {
        let text = "otpauth://totp/mcp.example.com:ada%20lovelace?secret=ACCBBSHTUKY2FV6ES2B6D57C7F7IYA6H&issuer=mcp.example.com";
        let svg = code(text, "a <title>").into_string();
        assert!(svg.contains("aria-label=\"a &lt;title&gt;\""));
        let side: usize = svg
            .split("0 0 ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let path = svg.split(" d=\"").nth(1).unwrap().split('"').next().unwrap();
        let dark: Vec<(usize, usize)> = path
            .split('M')
            .skip(1)
            .map(|module| {
                let (x, y) = module.trim_end_matches("h1v1h-1z").split_once(' ').unwrap();
                (x.parse().unwrap(), y.parse().unwrap())
            })
            .collect();
        let scale = 4;
        let mut picture = rqrr::PreparedImage::prepare_from_greyscale(side * scale, side * scale, |x, y| {
            if dark.contains(&(x / scale, y / scale)) { 0 } else { 255 }
        });
        let grids = picture.detect_grids();
        assert_eq!(grids[0].decode().unwrap().1, text);
        assert_eq!(code(&"x".repeat(5_000), "").into_string(), "", "longer than any holds");
    }
}

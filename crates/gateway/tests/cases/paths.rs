//! A rule for `/admin` must hold however the path is written, as far as common applications read it so: at ours `home_only`, at the
//! others a refusal of the prefix.

use super::{Case, Outcome, get};

fn ruled(o: &Outcome) -> bool {
    o.ruled()
}

pub fn list() -> Vec<Case> {
    let path = |name, path| Case::new(name, get(path, ""), ruled);
    let mut list = vec![Case::new("another path is not ruled", get("/shop", ""), |o| o.status() == 200 && !o.ruled())];
    list.extend([
        path("/admin", "/admin"),
        path("/admin/x", "/admin/x"),
        path("/%61dmin", "/%61dmin"),
        path("/%61%64%6D%69%6e", "/%61%64%6D%69%6e"),
        path("//admin", "//admin"),
        path("/./admin", "/./admin"),
        path("/x/../admin", "/x/../admin"),
        path("/x/%2e%2e/admin", "/x/%2e%2e/admin"),
        path("/x/%2E./admin", "/x/%2E./admin"),
        path("/x/..%2fadmin (decoded slash)", "/x/..%2fadmin"),
        path("/ADMIN (Express, ASP.NET)", "/ADMIN"),
        path("/;a/admin (Tomcat)", "/;a/admin"),
        path("/x/..;/admin (Tomcat, Spring)", "/x/..;/admin"),
        path("/admin;a", "/admin;a"),
        path("/%2561dmin (decoded twice)", "/%2561dmin"),
        path("/x\\..\\admin (backslashes)", "/x\\..\\admin"),
        Case::new(
            "http://shop.example/admin",
            "GET http://shop.example/admin HTTP/1.1\r\nHost: shop.example\r\n\r\n",
            ruled,
        ),
    ]);
    list
}
